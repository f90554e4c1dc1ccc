// Sorts a table by a column, and filters the rows of all tables by words.

{
  const NUMBER = /^[+-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?(?=$|[\s%)])/i;
  const order = new Intl.Collator("en", { numeric: true });
  const tables = [...document.querySelectorAll("table")];

  // The number that a cell begins with; NaN for words. An interval counts by its lower end.
  const numberOf = (text) => {
    const found = NUMBER.exec(text);
    return found ? Number(found[0].replaceAll(",", "")) : NaN;
  };

  // Cells are compared as numbers if most of them are. What has no number comes last both ways.
  function sorted(rows, column, sign) {
    const keys = rows.map((row) => {
      const text = row.cells[column].textContent.trim();
      return { row, text, number: numberOf(text), empty: text === "-" || text === "" };
    });
    const filled = keys.filter((key) => !key.empty);
    const numeric = 2 * filled.filter((key) => !Number.isNaN(key.number)).length > filled.length;
    const lacks = (key) => key.empty || (numeric && Number.isNaN(key.number));
    const compare = (a, b) =>
      lacks(a) - lacks(b) ||
      (lacks(a) ? a.empty - b.empty || order.compare(a.text, b.text) : 0) ||
      sign * (numeric && !lacks(a) ? a.number - b.number : order.compare(a.text, b.text));
    return keys.sort(compare).map((key) => key.row);
  }

  for (const table of tables) {
    const body = table.tBodies[0];
    const titles = [...table.tHead.rows[0].cells];
    titles.forEach((title, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...title.childNodes);
      title.append(button);
      button.addEventListener("click", () => {
        const sign = title.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        titles.forEach((other) => other.removeAttribute("aria-sort"));
        title.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        body.append(...sorted([...body.rows], column, sign));
      });
    });
  }

  const rows = tables.flatMap((table) =>
    [...table.tBodies[0].rows].map((row) => ({ row, text: row.textContent.toLowerCase() })),
  );
  const search = document.getElementById("search");
  if (search) {
    const input = search.querySelector("input");
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const { row, text } of rows) row.hidden = !words.every((word) => text.includes(word));
      for (const table of tables) {
        const none = ![...table.tBodies[0].rows].some((row) => !row.hidden);
        table.closest("section").classList.toggle("empty", none);
      }
      const left = rows.filter(({ row }) => !row.hidden).length;
      search.querySelector("output").textContent = words.length
        ? `${left} of ${rows.length} rows`
        : "";
    };
    input.addEventListener("input", filter);
    search.addEventListener("submit", (event) => event.preventDefault());
    // A browser may keep the words when the page is loaded again.
    filter();
  }
}
