// The chat page: one conversation, streamed from this server's own OpenAI-compatible API.

import { copyButton, renderMarkdown } from "./markdown.js";

const $ = (id) => document.getElementById(id);
const on = (id, type, action) => $(id).addEventListener(type, action);
const say = (words) => { $("status").textContent = words; };
const views = new WeakMap(); // turn -> its nodes
const CONVERSATION = "pascaline.conversation";
const SETTINGS = "pascaline.settings";
const KEY = "pascaline.api-key"; // in sessionStorage: forgotten when the tab is closed

let turns = []; // {user, answer, error, note, stats}: one question with its answer
let running = null; // {turn, abort, sent}: the request under way
let model = null;
let pinned = true; // the reader is at the bottom, so new text scrolls

function load(key, fallback) {
  try { return JSON.parse(localStorage.getItem(key)) ?? fallback; } catch { return fallback; }
}

function save(key, value) {
  try { localStorage.setItem(key, JSON.stringify(value)); } catch { say("This browser has no room to keep this."); }
}

function wordsOf(body) {
  const error = body?.error ?? body?.detail;
  return error?.message ?? (typeof error === "object" ? JSON.stringify(error) : error);
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is “pascaline serve” still running?");
  });
  if (response.ok) return response;
  if (response.status === 401) {
    $("auth").hidden = false;
    $("api-key").focus();
  }
  const body = await response.json().catch(() => null);
  throw new Error(wordsOf(body) ?? `The server answered ${response.status} ${response.statusText}.`);
}

async function loadModel(signal) {
  const { data: [served] } = await (await call("v1/models", { signal })).json();
  const context = served.max_model_len;
  model = served.id;
  $("model").textContent = context ? `${model} · ${context.toLocaleString("en")} tokens of context` : model;
}

const start = () => loadModel().then(() => say(""), (error) => say(error.message));

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let read; !read?.done;) {
    read = await reader.read();
    const lines = (rest + (read.value ?? "\n")).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:") && line.slice(5).trim() !== "[DONE]") yield JSON.parse(line.slice(5));
    }
  }
}

function requestFor(turn) {
  const settings = load(SETTINGS, {});
  const messages = settings["system-prompt"] ? [{ role: "system", content: settings["system-prompt"] }] : [];
  for (const { user, answer } of turns.slice(0, turns.indexOf(turn)).filter((past) => past.answer)) {
    messages.push({ role: "user", content: user }, { role: "assistant", content: answer });
  }
  messages.push({ role: "user", content: turn.user });
  const body = { model, messages, stream: true, stream_options: { include_usage: true } };
  for (const id of ["temperature", "top-p", "max-tokens", "seed"]) {
    if (settings[id]) body[id.replace("-", "_")] = Number(settings[id]);
  }
  return JSON.stringify(body);
}

// Times are the browser's own: from sending to the first text, and from the first to the last text.
async function stream(turn, signal) {
  const body = requestFor(turn);
  const sent = performance.now();
  const response = await call("v1/chat/completions", { method: "POST", body, signal });
  let [first, pieces, reason] = [0, 0, null];
  for await (const chunk of events(response.body)) {
    if (chunk.error) throw new Error(wordsOf(chunk));
    const [choice] = chunk.choices ?? [];
    reason = choice?.finish_reason ?? reason;
    if (choice?.delta?.content) {
      const now = performance.now();
      first ||= now;
      turn.answer += choice.delta.content;
      pieces++;
      turn.stats = { ttft_s: (first - sent) / 1000, decode_s: (now - first) / 1000, tokens: pieces };
    }
    if (chunk.usage) {
      turn.stats ??= { ttft_s: null, decode_s: 0 };
      turn.stats.tokens = chunk.usage.completion_tokens;
      turn.stats.prompt_tokens = chunk.usage.prompt_tokens;
      turn.stats.cached_tokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    repaint(turn);
  }
  if (!reason) throw new Error("The connection ended before the answer did.");
  if (reason === "length") turn.note = "cut off at the token limit";
}

async function ask(turn) {
  Object.assign(turn, { answer: "", error: "", note: "", stats: null });
  const abort = new AbortController();
  running = { turn, abort, sent: performance.now() };
  const clock = setInterval(() => turn.stats ?? repaint(turn), 100);
  pinned = true;
  setBusy("Answering…");
  try {
    if (!model) await loadModel(abort.signal);
    await stream(turn, abort.signal);
  } catch (error) {
    if (error.name === "AbortError") turn.note = "stopped";
    else if (error instanceof TypeError) turn.error = "The connection broke before the answer ended.";
    else turn.error = error.message;
    if (turn.error) model = null; // a restarted server may have another one
  }
  clearInterval(clock);
  if (running?.turn !== turn) return; // a new chat has begun meanwhile
  abort.abort(); // after an error in mid-stream the connection may still be open
  running = null;
  setBusy(turn.note === "stopped" ? "Stopped." : "");
  save(CONVERSATION, turns);
}

function statsOf({ stats, note }) {
  if (!stats) return note;
  const { ttft_s: ttft, decode_s: decode, tokens, prompt_tokens: prompt, cached_tokens: cached } = stats;
  const about = prompt === undefined ? "≈ " : ""; // no usage yet: pieces of text stand for tokens
  const rate = decode > 0 && tokens > 1 ? ((tokens - 1) / decode).toFixed(1) : null;
  return [
    ttft !== null && `${ttft.toFixed(2)} s to first token`,
    rate && `${about}${rate} tokens/s`,
    prompt !== undefined && `${prompt} prompt tokens${cached ? ` (${cached} cached)` : ""}`,
    `${about}${tokens} answer tokens`,
    note,
  ].filter(Boolean).join(" · ");
}

function node(parent, tag, className, textContent = "") {
  return parent.appendChild(Object.assign(document.createElement(tag), { className, textContent }));
}

function show(turn) {
  const article = node($("messages"), "article", "turn");
  const user = node(article, "div", "user", turn.user);
  const answer = node(article, "div", "answer");
  const wheel = node(article, "img", "wheel");
  const error = node(article, "p", "error");
  const facts = node(article, "div", "facts fine");
  const stats = node(facts, "span", "stats");
  const copy = facts.appendChild(copyButton(() => turn.answer));
  const retry = node(facts, "button", "quiet small retry", "Try again");
  Object.assign(wheel, { src: "static/wheel.svg", alt: "" });
  user.dir = answer.dir = "auto";
  answer.ariaLive = "polite";
  error.role = "alert";
  retry.addEventListener("click", () => ask(turn));
  views.set(turn, { answer, wheel, error, stats, copy, retry });
  paint(turn);
}

function paint(turn) {
  const { answer, wheel, error, stats, copy, retry } = views.get(turn);
  const busy = running?.turn === turn;
  answer.ariaBusy = busy; // read out once, when it is finished
  renderMarkdown(answer, turn.answer);
  wheel.hidden = !busy || Boolean(turn.answer);
  error.hidden = !turn.error;
  if (error.textContent !== turn.error) error.textContent = turn.error;
  const waited = busy && !turn.stats ? (performance.now() - running.sent) / 1000 : 0;
  stats.textContent = waited ? `reading the prompt · ${waited.toFixed(1)} s` : statsOf(turn);
  copy.hidden = busy || !turn.answer;
  retry.hidden = Boolean(running) || turn !== turns.at(-1);
  if (pinned) $("scroll").scrollTop = $("scroll").scrollHeight;
}

let frame = 0;
function repaint(turn) {
  frame ||= requestAnimationFrame(() => { frame = 0; paint(turn); });
}

function setBusy(words) {
  const losesFocus = document.activeElement.matches("#stop, .retry");
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
  $("welcome").hidden = turns.length > 0;
  say(words);
  turns.slice(-2).forEach(paint);
  if (losesFocus) $("prompt").focus();
}

function fitPrompt() {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight}px`;
  $("send").disabled = !$("prompt").value.trim();
}

function send() {
  const user = $("prompt").value.trim();
  if (!user || running) return;
  if (!$("settings").checkValidity()) openSettings(true);
  if (!$("settings").reportValidity()) return;
  turns.push({ user, answer: "", error: "", note: "", stats: null });
  show(turns.at(-1));
  $("prompt").value = "";
  fitPrompt();
  ask(turns.at(-1));
  $("prompt").focus();
}

function openSettings(open) {
  $("settings").hidden = !open;
  $("settings-toggle").setAttribute("aria-expanded", open);
  (open ? $("system-prompt") : $("prompt")).focus();
}

for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
on("composer", "submit", send);
on("prompt", "input", fitPrompt);
on("prompt", "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
on("suggestions", "click", ({ target }) => {
  if (!target.matches("button")) return;
  $("prompt").value = target.textContent;
  send();
});
on("stop", "click", () => running?.abort.abort());
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (running) running.abort.abort();
  else if (!$("settings").hidden) openSettings(false);
});
on("new-chat", "click", () => {
  running?.abort.abort();
  running = null;
  turns = [];
  $("messages").replaceChildren();
  save(CONVERSATION, turns);
  setBusy("");
  $("prompt").focus();
});
on("settings-toggle", "click", () => openSettings($("settings").hidden));
on("settings", "input", () => {
  save(SETTINGS, Object.fromEntries([...$("settings").elements].map(({ id, value }) => [id, value.trim()])));
});
on("scroll", "pointerdown", () => $("settings").hidden || openSettings(false));
on("scroll", "scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  pinned = scrollHeight - scrollTop - clientHeight < 48;
  $("jump").hidden = pinned;
});
on("jump", "click", () => { $("scroll").scrollTop = $("scroll").scrollHeight; });
on("auth", "submit", () => {
  sessionStorage.setItem(KEY, $("api-key").value.trim());
  $("auth").hidden = true;
  $("prompt").focus();
  start();
});
addEventListener("pagehide", () => {
  if (!running) return;
  running.turn.note = "interrupted";
  save(CONVERSATION, turns);
});

const settings = load(SETTINGS, {});
for (const field of $("settings").elements) field.value = settings[field.id] ?? "";
turns = load(CONVERSATION, []);
turns.forEach(show);
setBusy("");
fitPrompt();
start();
