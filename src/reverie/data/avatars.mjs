// One process draws them all: a job per line on stdin, {"style": ..., "options": {...}}, an SVG per line (a JSON string) on stdout.
// usage: node avatars.mjs MODULES, where MODULES is the node_modules folder that holds @dicebear.
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const load = (name) => import(pathToFileURL(join(process.argv[2], '@dicebear', name, 'lib', 'index.js')));
const { createAvatar } = await load('core');
const styles = new Map();

for await (const line of createInterface({ input: process.stdin })) {
  const { style, options } = JSON.parse(line);
  if (!styles.has(style)) styles.set(style, await load(style));
  const svg = createAvatar(styles.get(style), options).toString();
  if (!process.stdout.write(JSON.stringify(svg) + '\n')) {
    await new Promise((drained) => process.stdout.once('drain', drained));
  }
}
