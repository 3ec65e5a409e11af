// Makes the package that resource servers install, `latchkey/verifier`: JavaScript, types, and jose as its one dependency.
// The server itself is run from its repository, and is no part of it. `node scripts/pack-verifier.mjs [directory]` prints the
// path of the package.
import { execFileSync } from 'node:child_process'
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const root = join(import.meta.dirname, '..')
const dist = resolve(process.argv[2] ?? join(root, 'dist'))
const [built, target] = [join(dist, 'verifier'), join(dist, 'package')]
const { version, license, dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

for (const made of [built, target]) rmSync(made, { recursive: true, force: true })
execFileSync(
  process.execPath,
  [
    join(root, 'node_modules/typescript/bin/tsc'),
    ...['--project', join(root, 'tsconfig.verifier.json')],
    ...['--outDir', built],
  ],
  { stdio: ['ignore', 'inherit', 'inherit'] },
)
mkdirSync(target, { recursive: true })
cpSync(built, join(target, 'verifier'), { recursive: true })
for (const name of readdirSync(join(target, 'verifier')).filter((file) => file.endsWith('.d.ts'))) {
  // The compiler rewrites what programs import, and leaves declarations as they are.
  const file = join(target, 'verifier', name)
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll(/(from '\.\/[\w-]+)\.ts'/g, "$1.js'"))
}
// Links into the repository lead nowhere from the package.
const readme = readFileSync(join(root, 'docs/verifier.md'), 'utf8').replaceAll(/\[([^\]]+)\]\(\.[^)]*\)/g, '$1')
writeFileSync(join(target, 'README.md'), readme)
if (existsSync(join(root, 'LICENSE'))) copyFileSync(join(root, 'LICENSE'), join(target, 'LICENSE'))
writeFileSync(
  join(target, 'package.json'),
  `${JSON.stringify(
    {
      name: 'latchkey',
      version,
      description: 'Verifies the JWTs and workspace tokens of a Latchkey server, and learns of their end as it happens',
      license,
      type: 'module',
      engines: { node: '>=20.15' },
      sideEffects: false,
      exports: {
        './verifier': { types: './verifier/index.d.ts', default: './verifier/index.js' },
        './package.json': './package.json',
      },
      dependencies: { jose: dependencies.jose },
    },
    undefined,
    2,
  )}\n`,
)
const packed = execFileSync('npm', ['pack', '--silent', '--pack-destination', dist], { cwd: target, encoding: 'utf8' })
process.stdout.write(`${join(dist, packed.trim().split('\n').at(-1) ?? '')}\n`)
