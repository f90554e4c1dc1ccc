// Shows the run behind a row: on hover and focus for a moment, after a click, a tap or Enter until
// it is closed.

{
  const { runs } = JSON.parse(document.getElementById("data").textContent);
  const card = document.getElementById("card");
  const part = (name) => card.querySelector(name);
  let kept = null;

  function show(row) {
    const run = runs[row.dataset.run];
    const table = row.closest("table");
    part("strong").textContent = row.cells[0].textContent;
    part(".figures").replaceChildren(
      ...run.figures.map((text) => {
        const item = document.createElement("li");
        item.dir = "auto";
        item.textContent = text;
        return item;
      }),
    );
    part(".record").textContent = run.record;
    part(".command").textContent = run.command;
    part(".copy").textContent = "Copy";
    card.hidden = false;
    // A focused row stays above the card.
    table.closest("section").style.scrollMarginBottom = `${card.offsetHeight}px`;
  }

  function keep(row) {
    kept?.classList.remove("kept");
    kept = row;
    kept?.classList.add("kept");
    if (row) show(row);
    else card.hidden = true;
    card.classList.toggle("kept", row !== null);
  }

  const rowOf = (event) => event.target.closest?.("tr[data-run]") ?? null;
  const glance = (event) => {
    const row = rowOf(event);
    if (kept === null && row) show(row);
  };
  const leave = (event) => {
    if (kept === null && rowOf(event) && !card.contains(event.relatedTarget)) card.hidden = true;
  };

  for (const body of document.querySelectorAll("tbody")) {
    const rows = [...body.rows].filter((row) => row.dataset.run);
    // One stop of the Tab key a table; arrows go from row to row.
    if (rows.length) rows[0].tabIndex = 0;
    rows.slice(1).forEach((row) => { row.tabIndex = -1; });
    body.addEventListener("mouseover", glance);
    body.addEventListener("mouseout", leave);
    body.addEventListener("focusin", glance);
    body.addEventListener("focusout", leave);
    body.addEventListener("click", (event) => {
      const row = rowOf(event);
      // A selection of text is no click.
      if (row && getSelection().isCollapsed) keep(row === kept ? null : row);
    });
    body.addEventListener("keydown", (event) => {
      const row = rowOf(event);
      if (!row) return;
      if (event.key === "Enter") keep(row === kept ? null : row);
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const seen = [...body.rows].filter((each) => each.dataset.run && !each.hidden);
      const next = seen[seen.indexOf(row) + step];
      if (!next) return;
      event.preventDefault();
      row.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  part(".close").addEventListener("click", () => keep(null));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") keep(null);
  });

  part(".copy").addEventListener("click", async () => {
    const command = part(".command");
    try {
      await navigator.clipboard.writeText(command.textContent);
      part(".copy").textContent = "Copied";
    } catch {
      // Some browsers give no clipboard to a file: then the text is selected, to copy by hand.
      getSelection().selectAllChildren(command);
      part(".copy").textContent = "Selected";
    }
  });
}
