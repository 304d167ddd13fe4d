// Starts the WebAssembly program beside this file, which has its name but for the suffix:
// `node subnet.mjs --help`. Needs Node.js 20 or newer. The program sees the folders of the files
// that its arguments name, and no others.
import { readFile } from "node:fs/promises";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

if (Number.parseInt(process.versions.node, 10) < 20) {
    process.stderr.write(`error: this is Node.js ${process.versions.node}; 20 is the oldest that does\n`);
    process.exit(1);
}
// Node calls its WASI experimental at every start.
process.removeAllListeners("warning");
const { WASI } = await import("node:wasi");

const program = fileURLToPath(import.meta.url).replace(/\.mjs$/, ".wasm");
const words = process.argv.slice(2);
const folders = words.map((word) => path.dirname(word.replace(/^--[a-z-]+=/, "")));
const preopens = Object.fromEntries(folders.map((folder) => [folder, path.resolve(folder)]));

try {
    const wasi = new WASI({
        version: "preview1",
        args: [process.argv[1], ...words],
        preopens,
        returnOnExit: true,
    });
    const module = await WebAssembly.compile(await readFile(program));
    // Called directly, WASI's fast paths crash at times (nodejs/node issue 53087): go through JavaScript.
    const imports = Object.entries(wasi.wasiImport).map(([name, f]) => [name, (...a) => f(...a)]);
    const instance = await WebAssembly.instantiate(module, {
        wasi_snapshot_preview1: Object.fromEntries(imports),
    });
    process.exitCode = wasi.start(instance);
} catch (error) {
    process.stderr.write(`error: ${program}: ${error.message}\n`);
    process.exitCode = 1;
}
