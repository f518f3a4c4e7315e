"""Texts of different kinds, in the models' place of real prompts."""

from __future__ import annotations

TEXTS = {
    "prose": """A steam engine turns heat into motion. Water boils in a closed vessel, the steam pushes a
piston, and the piston turns a wheel. The first engines pumped water out of mines; they were slow, and
burned so much coal that only mine owners could afford them.""",
    "story": """"You are late," said the old woman, and she closed the door behind him. The room was dark
and smelled of smoke. On the table lay a letter that nobody had opened. "Read it," she said. "It is for
you. It has been lying here for twenty years." He sat down and held the paper close to the candle.""",
    "code": """def fibonacci(n):
    \"\"\"Return the first n Fibonacci numbers.\"\"\"
    numbers = [0, 1]
    while len(numbers) < n:
        numbers.append(numbers[-1] + numbers[-2])
    return numbers[:n]


if __name__ == "__main__":
    print(fibonacci(10))
""",
    "numbers": """| year | population | growth |
| ---- | ---------- | ------ |
| 1990 | 5,327,803,110 | 1.7 % |
| 2000 | 6,148,898,975 | 1.4 % |
| 2010 | 6,985,603,105 | 1.2 % |
| 2020 | 7,840,952,880 | 0.9 % |""",
    "french": """La machine à calculer de Pascal additionne et soustrait deux nombres directement. Il la
conçut à l'âge de dix-neuf ans pour aider son père, qui devait remettre en ordre les impôts d'une
province. Une cinquantaine de machines furent construites ; il en reste neuf.""",
    "scripts": "Москва — столица России. Berlin ist die Hauptstadt von Deutschland. 東京は日本の首都です。",
    "list": """Planets of the solar system, from the sun outwards:

1. Mercury
2. Venus
3. Earth
4. Mars
5. Jupiter
6. Saturn
7. Uranus
8. Neptune

Primary colors: red, green, blue. Days of the week: Monday, Tuesday, Wednesday, Thursday, Friday""",
}
CHAT = [
    {"role": "user", "content": "What is the capital of France, and which river flows through it?"},
    {"role": "assistant", "content": "The capital of France is Paris. The Seine flows through it."},
    {"role": "user", "content": "Thank you! And the capital of Italy?"},
]

MORE_TEXTS = {
    "letter": """Dear Ms Okafor,

Thank you for your letter of 3 March. We have looked into the delay and found that the parcel was left
at the wrong depot. It will be with you by Friday, and the postage has been refunded.

Yours sincerely,
Harald Lindqvist""",
    "recipe": """Lentil soup for four

Rinse 250 g of red lentils. Fry one chopped onion in two spoons of oil until it is soft, add a teaspoon
of cumin and a crushed clove of garlic, then the lentils and a litre of stock. Simmer for twenty minutes
and season with salt and lemon juice.""",
    "c": """static size_t count_words(const char *text)
{
    size_t count = 0;
    bool inside = false;
    for (; *text != '\\0'; text++) {
        if (isspace((unsigned char)*text))
            inside = false;
        else if (!inside) {
            inside = true;
            count++;
        }
    }
    return count;
}""",
    "sql": """SELECT customers.name, SUM(orders.total) AS spent
FROM customers
JOIN orders ON orders.customer_id = customers.id
WHERE orders.placed_at >= '2023-01-01'
GROUP BY customers.name
HAVING SUM(orders.total) > 1000
ORDER BY spent DESC;""",
    "json": """{"name": "wheelhouse", "version": "2.4.1", "private": true, "scripts": {"build": "tsc -p .",
"test": "node --test"}, "dependencies": {"express": "^4.18.2", "pg": "^8.11.0"}, "engines": {"node":
">=18"}}""",
    "arithmetic": """A train leaves at 9:40 and arrives at 13:05. The journey takes 3 hours and 25 minutes. It
covers 287 km, so its average speed is 287 / 3.4167 = 84 km/h. If it were 10 km/h faster, it would
arrive about 22 minutes earlier.""",
    "proof": """Suppose that there are only finitely many primes p1, ..., pn. Let N be their product plus one.
N is larger than one, so some prime divides it. None of p1, ..., pn does, because each leaves the
remainder one. This contradicts the assumption, hence there are infinitely many primes.""",
    "news": """The city council voted on Tuesday to close the old harbour bridge to cars from next summer.
Cyclists and pedestrians will keep their access. Shop owners on the east bank said that they feared for
their trade, while residents of the quay welcomed the decision after years of complaints about noise.""",
    "dialogue": """- Did you remember to lock the back door?
- I thought you did.
- I was carrying the suitcases.
- Then we had better turn round.
- We will miss the ferry.
- There is another one at six.""",
    "biology": """Photosynthesis takes place in the chloroplasts. Chlorophyll absorbs mostly red and blue
light, whose energy splits water into oxygen, protons and electrons. The protons drive the synthesis of ATP,
and in the Calvin cycle carbon dioxide is built into sugars.""",
    "spanish": """El tren llegó con dos horas de retraso. En el andén no quedaba nadie, salvo un hombre mayor
que leía el periódico bajo la única farola encendida. Cuando le preguntamos por el hotel, señaló una
calle estrecha que subía hacia la iglesia.""",
    "german": """Die Buchdruckerkunst veränderte Europa in wenigen Jahrzehnten. Bücher, die zuvor ein
Schreiber in Monaten abschrieb, entstanden nun in Tagen. Um 1500 gab es in mehr als zweihundert
Städten Pressen.""",
    "poem": """The tide goes out, the tide comes in,
the gulls complain, the ropes are thin,
the boats lie tilted in the sand
and wait for water, or a hand.""",
    "log": """2024-05-17 08:12:03 INFO  worker-2 started job 4711 (resize, 312 files)
2024-05-17 08:12:09 WARN  worker-2 file 88 has no colour profile, sRGB assumed
2024-05-17 08:12:31 ERROR worker-1 connection to storage lost, trying again in 5 s
2024-05-17 08:12:36 INFO  worker-1 connection to storage is back""",
    "instructions": """To replace the filter, switch the machine off and wait until it has cooled. Turn the
cap counter-clockwise, lift the old filter out and rinse the housing. Put the new filter in with the arrow
pointing down, close the cap and run the machine twice with water only.""",
}
