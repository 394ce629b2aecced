// three.js as one script with the global THREE, and three.json, which says which version it is and its checksum.
import { build } from "esbuild";
import { createHash } from "node:crypto";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";

await build({
  entryPoints: ["three-entry.js"],
  outfile: "three.min.js",
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "THREE",
  target: "es2022",
  charset: "ascii",
  legalComments: "inline",
});
copyFileSync("node_modules/three/LICENSE", "three.LICENSE.txt");
const { version } = JSON.parse(readFileSync("node_modules/three/package.json", "utf8"));
const bytes = readFileSync("three.min.js");
const sha256 = createHash("sha256").update(bytes).digest("hex");
writeFileSync("three.json", JSON.stringify({ version, sha256, bytes: bytes.length }, null, 2) + "\n");
