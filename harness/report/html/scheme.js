// Dark and light: the colors of the system, until the button is pressed.
"use strict";

{
  const root = document.documentElement;
  const button = document.getElementById("scheme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.style.colorScheme || (system.matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };

  button.addEventListener("click", () => {
    root.style.colorScheme = isDark() ? "light" : "dark";
    name();
  });
  system.addEventListener("change", name);
  name();

  // On a narrow screen the list of sections would push the answer away.
  if (matchMedia("(max-width: 70rem)").matches) {
    document.querySelector("nav details").open = false;
  }
}
