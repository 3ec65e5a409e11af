// The direction of imports: routes -> service -> rules and store -> src/store (the house rules; docs/architecture.md).
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'
import { ROOT } from '../src/app.ts'

const SRC = join(ROOT, 'src')
const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .sort()

function importsOf(file: string): string[] {
  const text = readFileSync(join(SRC, file), 'utf8')
  const specifiers = [...text.matchAll(/(?:import|export)\s[^'"]*?from '([^']+)'/g)].map((match) => match[1] ?? '')
  return specifiers.map((specifier) =>
    specifier.startsWith('.') ? relative(SRC, resolve(SRC, dirname(file), specifier)) : specifier,
  )
}

/** Breaches of a rule, as "file -> import". */
function breaches(
  concerns: (file: string) => boolean,
  forbidden: (imported: string, file: string) => boolean,
): string[] {
  return files.filter(concerns).flatMap((file) =>
    importsOf(file)
      .filter((imported) => forbidden(imported, file))
      .map((imported) => `${file} -> ${imported}`),
  )
}

const named = (name: string) => (file: string) => file.endsWith(`/${name}`)
const isTypeOnlyStore = (file: string, imported: string) =>
  new RegExp(`import type [^;]*?from '[^']*${imported.split('/').at(-1)}'`).test(readFileSync(join(SRC, file), 'utf8'))

describe('the architecture', () => {
  it('is read at all', () => {
    expect(files.length).toBeGreaterThan(40)
    expect(importsOf('accounts/service.ts')).toContain('accounts/store.ts')
  })

  it('rules are pure: they import rules, errors and types only', () => {
    const allowed = /(rules\.ts|^errors\.ts|^store\/tables\.ts|ids\.ts)$/
    expect(
      breaches(named('rules.ts'), (imported, file) => !allowed.test(imported) && !isTypeOnlyStore(file, imported)),
    ).toEqual([])
  })

  it('stores are SQL: they import the database, rules, ids, the audit record that belongs to a statement, and what a family’s connection is read by', () => {
    const allowed =
      /^(kysely|ids\.ts|store\/.*|crypto\/secret\.ts|audit\/service\.ts|connections\/store\.ts|.*\/rules\.ts)$/
    expect(
      breaches(
        (file) => named('store.ts')(file),
        (imported) => !allowed.test(imported),
      ),
    ).toEqual([])
  })

  it('nothing below the routes sees a Koa context', () => {
    const below = (file: string) =>
      /\/(rules|store|service)\.ts$/.test(file) || file.startsWith('store/') || file.startsWith('crypto/')
    expect(breaches(below, (imported) => /^(koa|@koa|koa-)/.test(imported) || imported.startsWith('http/'))).toEqual([])
  })

  it('oidc-provider is known to src/oauth alone', () => {
    expect(
      breaches(
        (file) => !file.startsWith('oauth/'),
        (imported) => imported.startsWith('oidc-provider'),
      ),
    ).toEqual([])
  })

  it("no room reaches into another one's routes, and the command line is imported by nobody", () => {
    expect(
      breaches(
        (file) => file !== 'app.ts',
        (imported) => imported.endsWith('/routes.ts'),
      ),
    ).toEqual([])
    expect(
      breaches(
        (file) => !file.startsWith('cli/') && file !== 'main.ts',
        (imported) => imported.startsWith('cli/'),
      ),
    ).toEqual([])
  })

  it('the verifier stands alone: jose and what Node brings', () => {
    expect(files.filter((file) => file.startsWith('verifier/')).length).toBeGreaterThan(2)
    expect(
      breaches(
        (file) => file.startsWith('verifier/'),
        (imported) => !/^(verifier\/|node:|jose$)/.test(imported),
      ),
    ).toEqual([])
  })

  it('only main.ts ends the process', () => {
    expect(
      files.filter((file) => file !== 'main.ts' && /process\.exit\(/.test(readFileSync(join(SRC, file), 'utf8'))),
    ).toEqual([])
  })

  it('SQL is never made from text: sql.raw stands in migrations only', () => {
    expect(files.filter((file) => /sql\.raw\(/.test(readFileSync(join(SRC, file), 'utf8')))).toEqual([])
  })
})
