// Looks at report pages in a real browser with the accessibility checker axe-core, and adds what it leaves open: the
// contrast of text in figures, and whether every figure has a caption. Nothing is fetched while a page opens.
//
//   npm install --prefix /tmp/axe axe-core playwright-core
//   NODE_PATH=/tmp/axe/node_modules node benchmarks/accessibility.mjs /usr/bin/chromium report.html...
//
// Exits 1 if anything is found. The page forbids scripts; the checker is let in from outside (bypassCSP).
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const require = createRequire(import.meta.url);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const [browserPath, ...files] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });
let wrong = 0;

function say(file, what) {
  wrong += 1;
  console.log(`${file}: ${what}`);
}

// WCAG 2.2, 1.4.3: at least 4.5 between a figure's text and the nearest background that is painted behind it.
function figures() {
  const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => channel(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const numbers = (color) => (color.match(/[\d.]+/g) || []).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const text of document.querySelectorAll("svg text")) {
    const [a, b] = [light(numbers(getComputedStyle(text).fill).slice(0, 3)), light(behind(text))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push(`${text.textContent.trim()} has a contrast of ${contrast.toFixed(2)}`);
  }
  const bare = [...document.querySelectorAll("figure")].filter((figure) => !figure.querySelector("figcaption")).length;
  return { faint, bare, texts: document.querySelectorAll("svg text").length };
}

for (const file of files) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await (await browser.newContext({ bypassCSP: true, colorScheme })).newPage();
    const fetched = [];
    page.on("request", (request) => fetched.push(request.url()));
    await page.goto(`file://${resolve(file)}`);
    await page.evaluate(() => document.querySelectorAll("details").forEach((part) => (part.open = true)));
    await page.evaluate(`${axe}; undefined`);
    const found = await page.evaluate(() => axe.run(document));
    for (const one of found.violations) say(file, `${one.id}: ${one.help} (${one.nodes.length}, ${one.nodes[0].target})`);
    for (const one of found.incomplete.filter((each) => each.id !== "color-contrast")) say(file, `open: ${one.id}`);
    const drawn = await page.evaluate(figures);
    for (const text of drawn.faint) say(file, text);
    if (drawn.bare) say(file, `${drawn.bare} figures without a caption`);
    if (fetched.length !== 1) say(file, `fetched ${fetched.slice(1)}`);
    console.log(`${file} (${colorScheme}): ${found.passes.length} rules hold, ${drawn.texts} texts in figures read`);
  }
}
await browser.close();
process.exit(wrong ? 1 : 0);
