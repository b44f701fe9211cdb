// What is wrong with the page it is run in, as a list of sentences. tests/page_audit.py runs it.
(options) => {
  const found = [];
  const say = (text) => found.length < 40 && found.push(text);
  const shown = (element) => `<${element.tagName.toLowerCase()} class="${element.getAttribute("class") ?? ""}"> ` +
    JSON.stringify(element.textContent.trim().slice(0, 60));

  // Nothing that runs, loads, or leads elsewhere.
  const forbidden = "iframe, frame, object, embed, applet, base, meta[http-equiv=refresh i], math, video, audio, portal, " +
    "foreignObject, animate, set" + (options.isServed ? ", link:not([rel=stylesheet][href^='/'])" : ", link");
  for (const element of document.querySelectorAll(forbidden)) say(`must not be there: ${shown(element)}`);
  for (const element of document.querySelectorAll("script"))
    if (!options.isServed) say(`a script: ${shown(element)}`);
    else if (!(element.getAttribute("src") ?? "").startsWith("/")) say(`a script that is none of the server's: ${shown(element)}`);
  for (const element of document.querySelectorAll("form"))
    if (!options.isServed || element.action && new URL(element.action).origin !== location.origin) say(`a form: ${shown(element)}`);
  for (const element of document.querySelectorAll("*"))
    for (const attribute of element.attributes) {
      const name = attribute.name.toLowerCase(), value = attribute.value.trim().toLowerCase();
      if (name.startsWith("on")) say(`handler ${name}: ${shown(element)}`);
      if (name === "style") say(`style attribute: ${shown(element)}`);
      if (["href", "src", "action", "formaction", "xlink:href", "data", "srcset", "poster"].includes(name) &&
          /^(javascript|vbscript|data:(?!image)|https?:|\/\/)/.test(value) && !value.startsWith(location.origin))
        say(`leads elsewhere: ${name}=${value.slice(0, 80)}`);
    }

  // What people need who hear the page, or use it by keys alone.
  if (!document.documentElement.lang) say("no language");
  if (!document.title.trim()) say("no title");
  if (document.querySelectorAll("h1").length !== 1) say(`${document.querySelectorAll("h1").length} h1, not one`);
  if (document.querySelectorAll("main").length !== 1) say(`${document.querySelectorAll("main").length} main, not one`);
  if (!document.querySelector("meta[name=viewport]")) say("no viewport, so small on a phone");
  let level = 1;
  for (const heading of document.querySelectorAll("h2, h3, h4, h5, h6")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) say(`a heading of level ${own} below one of ${level}: ${shown(heading)}`);
    level = own;
  }
  const named = (element) => element.getAttribute("aria-label")?.trim() ||
    (element.getAttribute("aria-labelledby") ?? "").split(/\s+/).some((id) => id && document.getElementById(id)?.textContent.trim());
  for (const input of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!named(input) && ![...input.labels].some((label) => label.textContent.trim())) say(`no label: ${input.name || input.id}`);
  for (const element of document.querySelectorAll("button, a[href], summary"))
    if (!element.hidden && !named(element) && !element.textContent.trim()) say(`no name: ${element.outerHTML.slice(0, 80)}`);
  for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) say("an image without alt");
  for (const drawing of document.querySelectorAll("svg"))
    if (!named(drawing) && !drawing.querySelector(":scope > title")?.textContent.trim() &&
        !drawing.closest("[aria-hidden=true]")) say(`a drawing without a title: ${drawing.outerHTML.slice(0, 80)}`);
  const seen = new Set();
  for (const element of document.querySelectorAll("[id]")) {
    if (seen.has(element.id)) say(`two elements are called ${element.id}`);
    seen.add(element.id);
  }
  for (const label of document.querySelectorAll("label[for]"))
    if (!document.getElementById(label.htmlFor)) say(`a label for nothing: ${label.htmlFor}`);

  // No sideways scrolling but inside of tables.
  const width = document.documentElement.scrollWidth;
  if (width > options.width) {
    const sticksOut = (element) => Math.max(element.getBoundingClientRect().right, element.getBoundingClientRect().left +
      (getComputedStyle(element).overflowX === "visible" ? element.scrollWidth : 0)) > options.width + 1;
    const wide = [...document.querySelectorAll("body *")].filter((element) => !element.closest(".scroll, svg") &&
      sticksOut(element) && ![...element.children].some(sticksOut)).slice(0, 3);
    say(`${width} wide on a screen of ${options.width}: ${wide.map(shown).join("; ")}`);
  }

  // Contrast of all text that is seen, against what lies behind it.
  const parsed = new Map();
  const channels = (color) => {
    if (!parsed.has(color)) {
      const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
      parsed.set(color, [red, green, blue, alpha / 255]);
    }
    return parsed.get(color);
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const behind = (element) => {
    if (!element) return channels("Canvas");
    const style = getComputedStyle(element), color = channels(style.backgroundColor);
    return color[3] === 1 ? color : over(color, behind(element.parentElement));
  };
  const luminance = (color) => color.slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const opacity = (element) => (element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const told = new Set();
  const looked = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (looked.has(element) || looked.size > 6000 || !texts.currentNode.data.trim() || element.closest("title, option, style")) continue;
    looked.add(element);
    if (!element.checkVisibility({ visibilityProperty: true }) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), drawn = element.closest("svg");
    const ground = behind(element), paint = channels(drawn ? style.fill : style.color);
    const text = over([...paint.slice(0, 3), paint[3] * opacity(element)], ground);
    const [light, dark] = [luminance(text), luminance(ground)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const kind = `${element.tagName} ${element.getAttribute("class")} ${text} ${ground}`;
    if (ratio < (large ? 3 : 4.5) && !element.closest(":disabled") && !told.has(kind)) {
      told.add(kind);
      say(`contrast ${ratio.toFixed(2)}: ${shown(element)}`);
    }
  }
  return found;
}
