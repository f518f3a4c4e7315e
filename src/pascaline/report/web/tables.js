// Tables of class "sortable": a heading's button sorts, again the other way round. Numbers begin with the
// largest, text with the first; empty cells go last. An <input data-filters="id"> hides rows of the table in
// the element of that id which lack one of its words; a number must be a whole cell, or in the first one.
"use strict";
{
  const valueOf = (cell) => cell.dataset.sort ?? cell.textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, index) => {
      heading.querySelector("button").addEventListener("click", () => {
        const first = heading.classList.contains("number") ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        const order = heading.getAttribute("aria-sort") === first ? other : first;
        headings.forEach((each) => each.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", order);
        const keyed = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[index]), row]);
        keyed.sort(([a], [b]) => {
          if (a === "" || b === "") return (a === "") - (b === "");
          return order === "ascending" ? compare(a, b) : compare(b, a);
        });
        table.tBodies[0].append(...keyed.map(([, row]) => row));
      });
    });
  }
  for (const input of document.querySelectorAll("input[data-filters]")) {
    const rows = [...document.querySelectorAll(`#${CSS.escape(input.dataset.filters)} tbody tr`)];
    const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent.toLowerCase()));
    const has = ([name, ...rest], word) =>
      name.includes(word) || rest.some((text) => (/^[\d.]+$/.test(word) ? text === word : text.includes(word)));
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((row, index) => {
        row.hidden = !words.every((word) => has(texts[index], word));
      });
    });
  }
}
