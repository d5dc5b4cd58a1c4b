// One process draws them all: a job per line on stdin, an answer per line (JSON) on stdout.
// {"style": ..., "options": {...}} -> {"svg": ..., "extra": {...}}, the parts it is made of;
// {"style": ...} -> {"meta": {...}, "defaults": {...}}, whose the style is, and what its options are unless told otherwise.
// usage: node avatars.mjs MODULES, where MODULES is the node_modules folder that holds @dicebear.
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const load = (name) => import(pathToFileURL(join(process.argv[2], '@dicebear', name, 'lib', 'index.js')));
const { createAvatar } = await load('core');
const styles = new Map();

const about = ({ meta, schema }) => {
  const options = Object.entries(schema.properties).map(([name, option]) => [name, option.default ?? null]);
  return { meta, defaults: Object.fromEntries(options) };
};

for await (const line of createInterface({ input: process.stdin })) {
  const { style, options } = JSON.parse(line);
  if (!styles.has(style)) styles.set(style, await load(style));
  const answer = options ? createAvatar(styles.get(style), options).toJson() : about(styles.get(style));
  if (!process.stdout.write(JSON.stringify(answer) + '\n')) {
    await new Promise((drained) => process.stdout.once('drain', drained));
  }
}
