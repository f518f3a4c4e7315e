// The legend's boxes show and hide precisions; pointing at a mark names it; the filter dims other cards' marks.
"use strict";
{
  const marks = document.querySelectorAll("path[data-card]");
  for (const box of document.querySelectorAll("input[data-shows]")) {
    box.addEventListener("change", () => {
      for (const mark of marks) {
        if (mark.classList.contains(box.dataset.shows)) mark.toggleAttribute("hidden", !box.checked);
      }
    });
  }
  const caption = document.getElementById("pointed");
  const point = (event) => {
    const mark = event.target.closest("path[data-card]");
    if (!mark) return;
    caption.textContent = mark.querySelector("title").textContent;
    for (const each of marks) each.classList.toggle("same", each.dataset.card === mark.dataset.card);
  };
  document.addEventListener("pointerover", point);
  document.addEventListener("click", point);
  document.querySelector("input[data-filters]").addEventListener("input", () => {
    const shown = new Set();
    for (const row of document.querySelectorAll("#cards tbody tr")) {
      if (!row.hidden) shown.add(row.cells[0].dataset.sort);
    }
    for (const mark of marks) mark.classList.toggle("other", !shown.has(mark.dataset.card));
  });
}
