// Draws the pictures. Colors come from the page, so they follow dark, light and print.

{
  const { pictures } = JSON.parse(document.getElementById("data").textContent);
  const text = "currentColor";
  const lines = { domainColor: text, tickColor: text, gridColor: text, gridOpacity: 0.15 };
  const words = { labelColor: text, titleColor: text };
  const config = {
    background: "transparent",
    font: "system-ui, sans-serif",
    axis: { ...lines, ...words, domainOpacity: 0.4, tickOpacity: 0.4 },
    header: words,
    legend: words,
    title: { color: text, subtitleColor: text },
    text: { color: text },
    rule: { color: text },
    view: { stroke: "transparent" },
  };
  const options = {
    config,
    renderer: "svg",
    actions: false,
    // The policy of the page allows no code made of text: expressions are interpreted.
    ast: true,
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };

  async function draw() {
    for (const figure of document.querySelectorAll("figure[data-picture]")) {
      // The page answers between two pictures.
      await new Promise((next) => setTimeout(next));
      await vegaEmbed(figure, pictures[figure.dataset.picture], options);
    }
  }
  if (typeof vegaEmbed === "function") draw();
}
