// Minimal Markdown for model text. Nodes are built with createElement and textContent only, so nothing that
// a model writes can become markup. Lengths in the patterns are bounded: no text makes them slow.

const FENCE = /^(\s*)(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const startsBlock = (line) => [FENCE, HEADING, RULE, ITEM].some((pattern) => pattern.test(line));

const INLINE = new RegExp([
  /\\(?<escaped>[!-/:-@[-`{-~])/,
  /(?<ticks>`+)(?<code>[^]{1,2000}?)\k<ticks>(?!`)/,
  /!?\[(?<label>[^\]\n]{1,400})\]\((?<target>(?:[^\s()<>]|\([^\s()<>]{0,200}\)){1,2000})\)/,
  /\*\*(?=\S)(?<bold>[^]{1,2000}?\S|\S)\*\*(?!\*)/,
  /\*(?=[^\s*])(?<star>[^*\n]{1,1000})(?<!\s)\*/,
  /(?<!\w)_(?=[^\s_])(?<under>[^_\n]{1,1000})(?<!\s)_(?!\w)/,
  /(?<url>https?:\/\/[^\s<>"'`*]{1,2000}[^\s<>"'`*.,;:!?)\]])/,
].map((pattern) => pattern.source).join("|"), "g");

function element(tag, className = "", textContent = "") {
  return Object.assign(document.createElement(tag), { className, textContent });
}

function link(target, label) {
  const allowed = URL.canParse(target) && ["http:", "https:", "mailto:"].includes(new URL(target).protocol);
  const node = element(allowed ? "a" : "span");
  if (allowed) Object.assign(node, { href: target, target: "_blank", rel: "noopener noreferrer" });
  return inline(node, label);
}

function inline(parent, text) {
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    parent.append(text.slice(end, match.index));
    end = match.index + match[0].length;
    const { escaped, code, label, target, bold, star, under, url } = match.groups;
    if (escaped) parent.append(escaped);
    else if (code) parent.append(element("code", "", code.replace(/^ (.*\S.*) $/s, "$1")));
    else if (url) parent.append(link(url, url.replace(/^https?:\/\//, "")));
    else if (label) parent.append(link(target, label));
    else parent.append(inline(element(bold ? "strong" : "em"), bold ?? star ?? under));
  }
  parent.append(text.slice(end));
  return parent;
}

export function copyButton(text) {
  const button = element("button", "quiet small", "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
    } catch { // plain http on another machine has no clipboard API
      const area = document.body.appendChild(element("textarea", "offscreen", text()));
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

function codeBlock(text, language) {
  const figure = element("figure", "code");
  const caption = element("figcaption", "fine", language || "code");
  const pre = Object.assign(element("pre"), { tabIndex: 0 }); // a keyboard can scroll long lines
  pre.append(element("code", "", text));
  caption.append(copyButton(() => text));
  figure.append(caption, pre);
  return figure;
}

function list(lines) {
  const open = []; // the lists around the current item, outermost first
  const items = [];
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (!match) {
      items.at(-1).text += `\n${line.trim()}`;
      continue;
    }
    const [, { length: indent }, marker, text] = match;
    while (open.length > 1 && indent < open.at(-1).indent) open.pop();
    if (!open.length || indent >= open.at(-1).indent + 2) {
      const ordered = /\d/.test(marker);
      const node = element(ordered ? "ol" : "ul");
      if (ordered) node.start = parseInt(marker, 10);
      if (open.length) items.at(-1).node.append(node);
      open.push({ indent, node });
    }
    items.push({ node: open.at(-1).node.appendChild(element("li")), text });
  }
  for (const { node, text } of items) node.prepend(inline(document.createDocumentFragment(), text.trim()));
  return open[0].node;
}

function blocks(text) {
  const lines = text.split("\n");
  const found = [];
  let at = 0;
  const take = (accepts) => {
    const start = at++;
    while (at < lines.length && accepts(lines[at])) at++;
    return lines.slice(start, at);
  };
  while (at < lines.length) {
    const start = at;
    const line = lines[at];
    let build = null; // a blank line makes no block
    let match;
    if (!line.trim()) {
      at++;
    } else if ((match = FENCE.exec(line))) {
      const [, indent, mark, language] = match;
      const ends = (next) => next.trim().startsWith(mark) && !next.trim().replaceAll(mark[0], "");
      const code = take((next) => !ends(next)).slice(1);
      at++; // the closing fence
      const cut = Math.min(indent.length, ...code.filter((row) => row.trim()).map((row) => row.search(/\S/)));
      build = () => codeBlock(code.map((row) => row.slice(cut)).join("\n"), language);
    } else if ((match = HEADING.exec(line))) {
      const [, { length: level }, title] = match;
      take(() => false);
      build = () => inline(element(`h${Math.min(level + 1, 6)}`), title); // h1 is the page's own
    } else if (RULE.test(line)) {
      take(() => false);
      build = () => element("hr");
    } else if ((match = ITEM.exec(line))) {
      const [, { length: base }, marker] = match;
      const rows = take((next) => {
        const item = ITEM.exec(next);
        if (item) return item[1].length > base || /\d/.test(item[2]) === /\d/.test(marker);
        if (!next.trim()) return /^(\s{2,}\S|\s*([-*+]|\d{1,9}[.)])\s)/.test(lines[at + 1] ?? "");
        return !startsBlock(next) && (/^\s{2}/.test(next) || lines[at - 1].trim());
      });
      build = () => list(rows);
    } else {
      const rows = take((next) => next.trim() && !startsBlock(next));
      build = () => inline(element("p"), rows.join("\n"));
    }
    if (build) found.push({ source: lines.slice(start, at).join("\n"), build });
  }
  return found;
}

const sources = new WeakMap();

// Blocks whose source did not change keep their nodes: a selection survives while the text below it grows.
export function renderMarkdown(container, text) {
  const wanted = blocks(text);
  wanted.forEach(({ source, build }, index) => {
    const old = container.children[index];
    if (old && sources.get(old) === source) return;
    const node = build();
    sources.set(node, source);
    if (old) old.replaceWith(node);
    else container.append(node);
  });
  while (container.children.length > wanted.length) container.lastElementChild.remove();
}
