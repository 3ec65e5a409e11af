#!/usr/bin/env node
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
// The command line. The only file that ends the process.
import { text } from 'node:stream/consumers'
import { Command, Option } from 'commander'
import type { JWK } from 'jose'
import { createProgress, printResult, printWelcome } from './cli/print.ts'
import { execute, migrateDatabase, serve } from './cli/process.ts'
import { verifyGiven } from './cli/verify.ts'
import { ConfigError, readConfig, VARIABLES } from './config.ts'
import { AppError } from './errors.ts'
import { createLog } from './http/log.ts'

const program = new Command('latchkey')
  .description('An OAuth 2.0 / OpenID Connect authorization server with a token fallback.')
  .showHelpAfterError('(add --help for what it takes)')
  .configureHelp({ showGlobalOptions: true })

const collect = (value: string, previous: string[] = []) => [...previous, value]
const ENVIRONMENTS = ['production', 'staging', 'development']

function group(name: string, description: string): Command {
  return program.command(name).description(description)
}

/** A command that runs over the services; its options become the command's input. */
function run(
  parent: Command,
  name: string,
  description: string,
  toInput: (options: Record<string, unknown>, args: string[]) => unknown,
  /** Work that needs no database, where the options ask for it. */
  offline?: (options: Record<string, unknown>) => Promise<unknown> | undefined,
): Command {
  const own = name.split(' ')[0] ?? ''
  const full = parent === program ? own : `${parent.name()} ${own}`
  return parent
    .command(name)
    .description(description)
    .option('--json', 'print the object itself, as JSON')
    .action(async function action(this: Command) {
      const options = this.opts<Record<string, unknown>>()
      const result = await (offline?.(options) ?? online(full, await toInput(options, this.args)))
      printResult(result, options.json === true)
      if (typeof result === 'object' && result !== null && Reflect.get(result, 'ok') === false) process.exitCode = 1
    })
}

function online(command: string, input: unknown): Promise<unknown> {
  const log = createLog('error', { write: (line) => process.stderr.write(line) })
  return execute(readConfig(process.env), log, { command, input }, createProgress())
}

/** @returns undefined where no file is named */
function verifyAuditFile({ file, keys, withoutKeys }: Record<string, unknown>): Promise<unknown> | undefined {
  if (file === undefined && keys === undefined && withoutKeys === undefined) return undefined
  if (typeof file !== 'string') throw new AppError('invalid_request', { detail: 'Give --file with --keys.' })
  if ((keys === undefined) !== (withoutKeys === true)) throw new AppError('invalid_request', { detail: KEYS_WANTED })
  return verifyGiven(file, typeof keys === 'string' ? readKeys(keys) : [], createProgress())
}

const KEYS_WANTED = 'Give --keys: without them anybody can have written the file. (--without-keys verifies the rest.)'

program
  .command('serve')
  .description('Start the server. It is configured by the environment, or by a file .env: see serve --help.')
  .addHelpText(
    'after',
    `\nVariables:\n${Object.entries(VARIABLES)
      .map(([name, { says }]) => `  ${name.padEnd(34)}${says}`)
      .join('\n')}`,
  )
  .action(async () => {
    const config = readConfig(process.env)
    const log = createLog(config.logLevel)
    const serving = await serve(config, log)
    printWelcome(config, serving.app)
    const stop = (signal: string) => {
      log.info({ signal }, 'stopping')
      serving.stop().then(
        () => process.exit(0),
        (error: unknown) => fail(error),
      )
    }
    process.once('SIGTERM', stop)
    process.once('SIGINT', stop)
  })

program
  .command('migrate')
  .description(
    'Bring the database up to date, as the role of DATABASE_MIGRATION_URL. Safe to run twice, and by several at once.',
  )
  .option('--json', 'print the object itself, as JSON')
  .action(async (options: { json?: boolean }) => {
    printResult(await migrateDatabase(readConfig(process.env), createLog('error')), options.json === true)
  })

const user = group('user', 'People with an account.')
run(user, 'create', 'Open an account. The password is read from standard input.', async (options) => {
  return { email: options.email, name: options.name, password: await passwordFromInput() }
})
  .requiredOption('--email <address>', 'how the person signs in')
  .requiredOption('--name <name>', 'what the person is called')
  .requiredOption('--password-stdin', 'read the password from standard input')
run(
  user,
  'set-password <user>',
  'Give a person (id or e-mail) a new password, and end their sessions.',
  async (_options, [who]) => {
    return { user: who, password: await passwordFromInput() }
  },
).requiredOption('--password-stdin', 'read the password from standard input')

run(
  user,
  'sign-out <user>',
  'Sign a person out everywhere: browser sessions end, and their connections sign new tokens.',
  (_options, [who]) => ({ user: who }),
)
run(user, 'suspend <user>', 'Suspend a person: their sessions and connections end at once.', (_options, [who]) => ({
  user: who,
}))
run(
  user,
  'erase <user>',
  'Erase an account: everything of the person ends, and no row names them any more.',
  ({ dryRun, yes }, [who]) => ({ user: who, dry_run: dryRun === true, yes: yes === true }),
)
  .option('--dry-run', 'only say what it would come to')
  .option('--yes', 'do it: it cannot be undone')
run(user, 'restore <user>', 'Lift a suspension. What was issued before stays dead.', (_options, [who]) => ({
  user: who,
}))

const audit = group('audit', 'The log of who had access, with what, when.')
run(
  audit,
  'verify',
  'Whether the log is whole: every chain gapless, every record as it was, and what was signed still true.',
  () => ({}),
  verifyAuditFile,
)
  .option('--file <path>', 'verify an exported file, an archive or the report of a review instead, offline')
  .option('--keys <path>', 'public keys of the server that wrote the file: see audit keys')
  .option('--without-keys', 'leave the signature unchecked: whoever wrote the file is not known then')
run(audit, 'keys', 'Print the public keys that files are verified with (a JWK Set).', () => ({}))
run(
  audit,
  'export',
  'Write the records of an organization, or those that fit, into a signed file.',
  ({ organization, to, trace, workspace, since, until }) => {
    const filter = { trace_id: trace, workspace_id: workspace, since, until }
    return { chain: organization, to: resolve(String(to)), ...filter }
  },
)
  .requiredOption('--organization <id>', 'whose; system: what belongs to no organization')
  .requiredOption('--to <path>', 'the file, which must not be there yet')
  .option('--trace <id>', 'only what is recorded of this trace')
  .option('--workspace <id>', 'only this workspace')
  .option('--since <time>', 'recorded at or after, such as 2026-05-01T00:00:00Z')
  .option('--until <time>', 'recorded before')
run(
  audit,
  'archive',
  'Put what is older than a month into signed files, and take months that are archived out of the database.',
  ({ before, to }) => ({ before, to: resolve(String(to)) }),
)
  .requiredOption('--before <day>', 'the first day of the oldest month that stays, such as 2026-05-01')
  .requiredOption('--to <directory>', 'where the files go')

run(
  program,
  'restore-check',
  'After a database was restored from a backup: end again what its sink knows to have ended since, and refuse every JWT issued so far. Nothing is answered before.',
  ({ dryRun, acceptSink }) => ({ dry_run: dryRun === true, accept_sink: acceptSink === true }),
)
  .option('--dry-run', 'only say what would be done')
  .option('--accept-sink', 'begin a new sink, or leave out what this one holds of other databases')

const keys = group('keys', 'The keys that secrets are sealed under, and their replacement.')
run(
  keys,
  'status',
  'Which master keys seal how many rows, and whether LATCHKEY_MASTER_KEY holds them; data keys of organizations.',
  () => ({}),
)
run(
  keys,
  'rewrap',
  'Seal everything again under the newest master key, while servers run. Cut short, it goes on when it is run again.',
  () => ({}),
)
run(
  keys,
  'rotate-data',
  'A new data key for each organization, and the keys of its providers sealed again under it, while servers run.',
  ({ organization, unfinishedOnly }) => ({
    ...(organization === undefined ? {} : { organization }),
    unfinished_only: unfinishedOnly === true,
  }),
)
  .option('--organization <id>', 'only this one')
  .option('--unfinished-only', 'make no new keys: go on with rotations that were cut short')

run(
  group('revocation', 'What is refused before its time.'),
  'everything',
  'Refuse every JWT issued so far, such as after a key was compromised. Clients get new ones by themselves.',
  () => ({}),
)

run(
  group('jobs', 'Work in the background.'),
  'run <job>',
  'Run a scheduled job now, such as notices, reviews-open, reviews-team, reviews-close or statements.',
  (_options, [job]) => ({ job }),
)

const review = group('review', 'Access reviews.')
run(
  review,
  'open',
  'Open an access review of a workspace, or of each workspace of an organization.',
  ({ workspace, organization, incident, dueInDays }) => {
    if ((workspace === undefined) === (organization === undefined))
      throw new AppError('invalid_request', { detail: 'Give --workspace or --organization, one of them.' })
    return {
      ...(workspace === undefined ? { organization } : { workspace }),
      reason: incident === true ? 'incident' : 'asked',
      ...(dueInDays === undefined ? {} : { due_in_days: daysOf(dueInDays) }),
    }
  },
)
  .option('--workspace <id>', 'the workspace; or')
  .option('--organization <id>', 'the organization')
  .option('--incident', 'after an incident: it is due in three days')
  .option('--due-in-days <days>', 'until when it is due')
run(review, 'list', 'List the access reviews of a workspace.', ({ workspace }) => ({ workspace })).requiredOption(
  '--workspace <id>',
  'the workspace',
)
run(
  review,
  'close <review>',
  'Close an access review now: what nobody has attested is suspended.',
  (_options, [id]) => ({ review: id }),
)

const organization = group('organization', 'Companies.')
run(organization, 'list', 'List the organizations.', () => ({}))
run(organization, 'create', 'Make an organization.', ({ name, owner }) => ({ name, owner }))
  .requiredOption('--name <name>', 'what it is called')
  .requiredOption('--owner <user>', 'its owner: id or e-mail')

const workspace = group('workspace', 'Units of isolation within an organization.')
run(workspace, 'list', 'List the workspaces that are not archived.', () => ({}))
run(workspace, 'create', 'Make a workspace.', (options) => {
  const { organization, name, owner, billingEmail } = options
  return { organization, name, owner, ...(billingEmail === undefined ? {} : { billing_email: billingEmail }) }
})
  .requiredOption('--organization <id>', 'the organization it belongs to')
  .requiredOption('--name <name>', 'what it is called')
  .requiredOption('--owner <user>', 'its owner: id or e-mail')
  .option('--billing-email <address>', 'where statements go')

run(
  group('member', 'Who works where.'),
  'add',
  'Add a person to a workspace or an organization.',
  ({ workspace, organization, user, role }) => {
    if ((workspace === undefined) === (organization === undefined)) {
      throw new AppError('invalid_request', { detail: 'Give --workspace or --organization, one of them.' })
    }
    if (organization !== undefined && role === 'viewer') {
      throw new AppError('invalid_request', {
        detail: 'An organization has the roles owner, admin and member; viewer is a role of a workspace.',
      })
    }
    return workspace === undefined ? { organization, user, role } : { workspace, user, role }
  },
)
  .option('--workspace <id>', 'the workspace; or')
  .option('--organization <id>', 'the organization')
  .requiredOption('--user <user>', 'the person: id or e-mail')
  .addOption(
    new Option('--role <role>', 'what they may do')
      .choices(['owner', 'admin', 'member', 'viewer'])
      .makeOptionMandatory(),
  )

const client = group('client', 'OAuth clients: plugins and integrations.')
run(client, 'create', 'Register a client. A secret is printed once.', (options) => ({
  name: options.name,
  redirect_uris: options.redirectUri ?? [],
  ...(options.postLogoutRedirectUri === undefined ? {} : { post_logout_redirect_uris: options.postLogoutRedirectUri }),
  ...(options.backchannelLogoutUri === undefined ? {} : { backchannel_logout_uri: options.backchannelLogoutUri }),
  ...(options.backchannelLogoutSessionRequired === true ? { backchannel_logout_session_required: true } : {}),
  grant_types: options.grant ?? ['authorization_code', 'refresh_token'],
  auth: options.auth,
  environment: options.environment,
  pkce: options.pkce,
  ...(options.resource === undefined ? {} : { resource: options.resource }),
  ...(typeof options.jwks === 'string' ? { jwks: readJson(options.jwks) } : {}),
}))
  .requiredOption('--name <name>', 'what people see')
  .option('--redirect-uri <uri>', 'where answers may go; once for each', collect)
  .option('--post-logout-redirect-uri <uri>', 'where people may go after signing out; once for each', collect)
  .option('--backchannel-logout-uri <uri>', 'where it is told, server to server, that a session has ended')
  .option('--backchannel-logout-session-required', 'tell it session by session (sid) only, never of all at once')
  .option(
    '--grant <type>',
    'authorization_code, refresh_token, client_credentials; once for each (default: the first two)',
    collect,
  )
  .addOption(
    new Option('--auth <method>', 'how it authenticates')
      .choices(['client_secret_basic', 'client_secret_post', 'none', 'private_key_jwt'])
      .default('client_secret_basic'),
  )
  .addOption(
    new Option('--environment <environment>', 'which environment its connections work in')
      .choices(ENVIRONMENTS)
      .default('production'),
  )
  .option('--resource <identifier>', 'the API it gets tokens for when it names none')
  .option('--jwks <file>', 'its public keys (a JWKS), for private_key_jwt')
  .option('--no-pkce', 'excuse this client from PKCE: for a library that knows none')
run(client, 'list', 'List the clients.', () => ({}))
run(client, 'show <client>', 'Show a client.', (_options, [id]) => ({ client: id }))
run(client, 'delete <client>', 'Withdraw a client: it is refused from now on.', (_options, [id]) => ({ client: id }))
run(
  client,
  'grant <client>',
  'Grant a client to a workspace, for client credentials.',
  ({ workspace, resource, scope }, [id]) => ({
    client: id,
    workspace,
    resource,
    scopes: scope ?? [],
  }),
)
  .requiredOption('--workspace <id>', 'the workspace')
  .requiredOption('--resource <identifier>', 'the API')
  .option('--scope <scope>', 'what it may do there; once for each (default: all)', collect)

run(
  group('resource', 'Resource servers: APIs that take our access tokens.'),
  'create',
  'Register an API. Its secret is printed once.',
  (options) => ({
    identifier: options.identifier,
    ...(options.name === undefined ? {} : { name: options.name }),
    environments: options.environment,
    scopes: readScopes(texts(options.scope), texts(options.leastRole)),
  }),
)
  .requiredOption('--identifier <uri>', 'its URI: the audience of its tokens')
  .option('--name <name>', 'what operators call it')
  .requiredOption('--environment <environment>', 'production, staging, development; once for each', collect)
  .requiredOption(
    '--scope <name=sentence>',
    'a scope, and what it lets a client do in words for people; once for each',
    collect,
  )
  .option('--least-role <scope=role>', 'who may grant it: member (the default), admin or owner; once for each', collect)

const connection = group('connection', 'What people approved, and clients were granted.')
run(connection, 'list', 'List the open connections of a workspace.', ({ workspace }) => ({ workspace })).requiredOption(
  '--workspace <id>',
  'the workspace',
)
run(
  connection,
  'close <connection>',
  'End a connection for good: its refresh tokens stop working now.',
  (_options, [id]) => ({
    connection: id,
  }),
)

const organizationKey = group('organization-key', 'Keys of an organization, for provisioning over the JSON API.')
run(organizationKey, 'create', 'Make a key. Its value is printed once.', (options) => ({
  organization: options.organization,
  label: options.label,
  permissions: options.permission ?? ['read', 'manage'],
  ...(options.expiresIn === undefined ? {} : { expires_in: Number(options.expiresIn) }),
}))
  .requiredOption('--organization <id>', 'the organization')
  .requiredOption('--label <label>', 'where it will be used')
  .option('--permission <permission>', 'read, manage; once for each (default: both)', collect)
  .option('--expires-in <seconds>', 'how long it lives (default: until it is revoked)')
run(organizationKey, 'list', 'List the keys of an organization.', ({ organization }) => ({
  organization,
})).requiredOption('--organization <id>', 'the organization')
run(organizationKey, 'revoke <key>', 'End a key, at once.', ({ organization }, [key]) => ({
  organization,
  key,
})).requiredOption('--organization <id>', 'the organization')

const texts = (value: unknown): string[] => (Array.isArray(value) ? value.map(String) : [])

/** @throws {AppError} for text without "=", and for a role of a scope that is not there */
function readScopes(scopes: string[], leastRoles: string[]) {
  const roles = new Map(leastRoles.map((text) => splitAtEquals('--least-role', text)))
  const read = scopes.map((text) => {
    const [name, sentence] = splitAtEquals('--scope', text)
    const scope = { name, sentence, least_role: roles.get(name) ?? 'member' }
    roles.delete(name)
    return scope
  })
  const [unknown] = roles.keys()
  if (unknown === undefined) return read
  throw new AppError('invalid_request', { detail: `--least-role names a scope that is not there: ${unknown}.` })
}

/** Which numbers are taken, the command says. */
function daysOf(text: unknown): number {
  if (/^\d{1,9}$/.test(String(text))) return Number(text)
  throw new AppError('invalid_request', { detail: '--due-in-days takes a whole number of days, such as 7.' })
}

function splitAtEquals(option: string, text: string): [string, string] {
  const equals = text.indexOf('=')
  if (equals >= 1) return [text.slice(0, equals), text.slice(equals + 1)]
  throw new AppError('invalid_request', { detail: `${option} ${text} must have an "=" in it: see --help.` })
}

function readJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    throw new AppError('invalid_request', { detail: `${path} cannot be read as JSON.` })
  }
}

/** A JWK Set (RFC 7517), as `audit keys --json` prints it. */
function readKeys(path: string): JWK[] {
  const found = readJson(path)
  const keys: unknown = typeof found === 'object' && found !== null ? Reflect.get(found, 'keys') : undefined
  if (Array.isArray(keys) && keys.length > 0 && keys.every((key) => typeof key?.kty === 'string')) return keys
  throw new AppError('invalid_request', { detail: `${path} holds no JWK Set: audit keys --json prints one.` })
}

/** One line; a newline at its end is not part of it. */
async function passwordFromInput(): Promise<string> {
  if (process.stdin.isTTY) process.stderr.write('Password, then Enter and Ctrl-D: ')
  return (await text(process.stdin)).replace(/\r?\n$/, '')
}

function describeFailure(error: AppError): string {
  return process.argv.includes('--json') ? JSON.stringify({ code: error.code, detail: error.detail }) : error.detail
}

function fail(error: unknown): never {
  if (error instanceof ConfigError) process.stderr.write(`${error.message}\n`)
  else if (error instanceof AppError) process.stderr.write(`${describeFailure(error)}\n`)
  else if (error instanceof Error && 'code' in error && error.code === 'EADDRINUSE') {
    process.stderr.write('The port is in use: stop what listens there, or set PORT to another one.\n')
  } else process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`)
  process.exit(1)
}

// Who reads our output may go away before we do: that is no failure.
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})

program.addHelpText('after', () => {
  const all = program.commands.flatMap((command) =>
    command.commands.length === 0 ? [command] : command.commands.filter((sub) => sub.name() !== 'help'),
  )
  const lines = all.map((command) => {
    const parent = command.parent === program || command.parent === null ? '' : `${command.parent.name()} `
    return `  ${`${parent}${command.name()}`.padEnd(24)}${command.description()}`
  })
  return `\nAll of them (each has --help):\n${lines.join('\n')}`
})

if (existsSync('.env')) process.loadEnvFile()
program.parseAsync().catch(fail)
