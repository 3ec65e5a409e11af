// What is set beside docker-compose.yml reaches the servers in it.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { ROOT } from '../src/app.ts'
import { readConfig, VARIABLES } from '../src/config.ts'

/** Its networks, volumes and proxy stand on them; the tour is refused in production. */
const OF_THE_FILE_ITSELF = ['HOST', 'PORT', 'LATCHKEY_DATA_DIR', 'LATCHKEY_TRUSTED_PROXIES', 'LATCHKEY_TOUR']
const compose = readFileSync(join(ROOT, 'docker-compose.yml'), 'utf8')

it.each(Object.keys(VARIABLES).filter((name) => !OF_THE_FILE_ITSELF.includes(name)))('%s is passed on', (name) => {
  const [, value] = new RegExp(`^    ${name}: (.+)$`, 'm').exec(compose) ?? []
  const isMadeOfOthers = ['DATABASE_URL', 'DATABASE_MIGRATION_URL', 'REDIS_URL'].includes(name)
  expect(value).toContain(isMadeOfOthers ? '${' : `\${${name}:`)
})

it('a variable that is passed on empty counts as not set', () => {
  const empty = Object.fromEntries(Object.keys(VARIABLES).map((name) => [name, '']))
  expect(readConfig(empty)).toEqual(readConfig({}))
})
