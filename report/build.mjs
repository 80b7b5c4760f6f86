// Bundles the page into one file: node build.mjs OUTPUT
// Script and style stand in the file itself; a policy that names their hashes keeps everything else out.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

const output = process.argv[2] ?? "template.html";

const bundle = await build({
  entryPoints: ["src/main.ts", "src/style.css"],
  outdir: "out",
  bundle: true,
  minify: true,
  write: false,
  metafile: true,
  format: "iife",
  target: ["es2022", "chrome109", "firefox115", "safari16.4"],
  charset: "ascii",
  legalComments: "none",
});

const text = (extension) => bundle.outputFiles.find((file) => file.path.endsWith(extension)).text.trim();
const hash = (content) => `'sha256-${createHash("sha256").update(content).digest("base64")}'`;

/** "name version, licence" and the licence's text, of every package that is part of the bundle. */
function licences() {
  const folders = new Set();
  for (const input of Object.keys(bundle.metafile.inputs)) {
    const match = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (match) folders.add(match[1]);
  }
  const texts = new Map();
  for (const folder of [...folders].sort()) {
    const { name, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const licence = file ? readFileSync(join(folder, file), "utf8").trim() : readme(folder);
    texts.set(licence, [...(texts.get(licence) ?? []), `${name} ${version}`]);
  }
  return [...texts].map(([licence, packages]) => `${packages.join(", ")}\n\n${licence}`).join("\n\n----\n\n");
}

/** The licence of a package that states it in its README or package.json alone. */
function readme(folder) {
  const { license, author } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = join(folder, "README.md");
  const section = existsSync(file) ? /#+\s*licen[cs]e[\s\S]*/i.exec(readFileSync(file, "utf8"))?.[0] : undefined;
  return section?.trim() ?? `${license ?? "?"} ${typeof author === "string" ? author : (author?.name ?? "")}`.trim();
}

const escape = (content) => content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("--", "- -");
const script = text(".js");
const style = text(".css");
if (script.includes("</script") || script.includes("<!--")) throw new Error("the script would end its own element");
const policy = [
  "default-src 'none'",
  `script-src ${hash(script)}`,
  `style-src ${hash(style)}`,
  "img-src data:", // colour ramps of legends
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

const parts = { POLICY: policy, STYLE: style, SCRIPT: script, LICENCES: escape(licences()) };
const page = readFileSync("src/index.html", "utf8").replaceAll(/@([A-Z]+)@/g, (whole, name) => parts[name] ?? whole);
writeFileSync(output, page);
