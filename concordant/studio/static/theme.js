// Light or dark pages. The choice of the visitor wins over the system's. This script runs before the page is painted.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // a browser that stores nothing
    }
  };
  const isDark = () => (stored() ? stored() === "dark" : system.matches);
  const show = () => {
    document.documentElement.dataset.theme = isDark() ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) button.textContent = isDark() ? "Light pages" : "Dark pages";
    document.dispatchEvent(new CustomEvent("theme"));
  };
  show();
  system.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      try {
        localStorage.setItem("theme", isDark() ? "light" : "dark");
      } catch {
        return;
      }
      show();
    });
  });
})();
