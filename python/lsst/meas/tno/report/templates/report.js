"use strict";
(() => {
  const table = document.getElementById("candidate-table");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const form = document.getElementById("filter");
  const shown = document.getElementById("shown");
  form.hidden = false;

  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  function compare(column, isNumber, sign) {
    return (one, other) => {
      const a = valueOf(one, column), b = valueOf(other, column);
      // What has no value is last, whichever way the table is sorted.
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
  }

  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent.trim();
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = cell.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      rows.sort(compare(column, cell.dataset.kind === "number", descending ? -1 : 1));
      body.append(...rows);
    });
  });

  function filter() {
    const text = form.elements.text.value.trim().toLowerCase();
    const limits = [...form.querySelectorAll("input[data-column]")]
      .filter((input) => input.value !== "")
      .map((input) => ({
        column: Number(input.dataset.column),
        sign: input.dataset.limit === "low" ? 1 : -1,
        value: Number(input.value),
      }));
    let count = 0;
    for (const row of rows) {
      const fits = row.textContent.toLowerCase().includes(text) && limits.every(({ column, sign, value }) => {
        const found = row.cells[column].dataset.value;
        return found !== "" && sign * (found - value) >= 0;
      });
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
  }

  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
