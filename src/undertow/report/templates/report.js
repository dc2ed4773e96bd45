"use strict";
(() => {
  const table = document.getElementById("row-table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const search = document.getElementById("row-search");
  const kind = document.getElementById("row-kind");
  const count = document.getElementById("row-count");
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

  const matches = {
    all: () => true,
    flagged: (row) => row.classList.contains("flagged"),
    kept: (row) => row.classList.contains("kept"),
    planted: (row) => row.classList.contains("planted"),
    clean: (row) => !row.classList.contains("planted"),
  };

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !(matches[kind.value](row) && words.get(row).includes(wanted));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  };

  const sort = (header, column, numeric) => {
    const descending = header.getAttribute("aria-sort") === "ascending";
    const value = (row) => row.cells[column].dataset.value;
    const ascend = numeric
      ? (a, b) => (Number(value(a)) || 0) - (Number(value(b)) || 0)
      : (a, b) => value(a).localeCompare(value(b));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    rows.sort((a, b) => (descending ? -ascend(a, b) : ascend(a, b)));
    body.append(...rows);
  };

  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    if (!header.dataset.sort) return;
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `Sort by ${header.textContent}`);
    header.append(button); // lies over the words, which stay in the header for print
    button.addEventListener("click", () => sort(header, column, header.dataset.sort === "number"));
  });

  search.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  document.getElementById("row-tools").hidden = false;

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    for (const text of opened) text.open = true;
  });
  addEventListener("afterprint", () => {
    for (const text of opened) text.open = false;
  });
})();
