// What a reader with other eyes, or without a mouse, would stumble over on the page as it is now; a line for each.
() => {
  const found = [];
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((each) => (each / 255 <= 0.04045 ? each / 255 / 12.92 : ((each / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const parsed = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return { rgb: numbers.slice(0, 3), alpha: numbers[3] ?? 1 };
  };
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const layer = parsed(getComputedStyle(each).backgroundColor);
      layers.unshift(layer);
      if (layer.alpha === 1) break;
    }
    return layers.reduce((under, { rgb, alpha }) => rgb.map((value, index) => value * alpha + under[index] * (1 - alpha)), [255, 255, 255]);
  };
  const seen = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    const text = texts.currentNode.textContent.trim();
    if (!text || !seen(element) || element.closest("script, title, option, button:disabled")) continue;
    const style = getComputedStyle(element);
    const ink = parsed(element.closest("svg") ? style.fill : style.color).rgb;
    const [light, dark] = [luminance(ink), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (contrast < (large ? 3 : 4.5)) found.push(`contrast ${contrast.toFixed(2)}: ${text.slice(0, 60)}`);
  }
  const named = (element) =>
    element.getAttribute("aria-label") || element.labels?.[0]?.textContent.trim() || element.textContent.trim();
  for (const element of document.querySelectorAll("input:not([type=hidden]):not([hidden]), select, textarea, button, a, progress")) {
    if (!named(element)) found.push(`no name: ${element.outerHTML.slice(0, 100)}`);
  }
  for (const element of document.querySelectorAll("svg")) {
    if (element.getAttribute("aria-hidden") !== "true" && !element.getAttribute("aria-label")) found.push("a picture without words");
  }
  for (const element of document.querySelectorAll("[aria-labelledby], a[href^='#']")) {
    const id = element.getAttribute("aria-labelledby") ?? element.getAttribute("href").slice(1);
    if (!document.getElementById(id)) found.push(`nothing is called ${id}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) found.push(`twice on the page: ${id}`);
  if (document.querySelectorAll("h1").length !== 1) found.push("not one heading");
  if (document.documentElement.lang !== "en") found.push("no language");
  if (document.documentElement.scrollWidth > innerWidth) found.push(`${document.documentElement.scrollWidth - innerWidth} px too wide`);
  return found;
};
