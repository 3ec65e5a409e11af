// What the benchmark compares with: the figures measured in November 2026, and the goals set from them. The figures are
// a check on the peers ("is it configured as it should be?"), never part of a ratio: ratios come from one run only.

export const SCENARIO_NAMES = [
  'client_credentials',
  'token_exchange',
  'refresh',
  'code_pkce',
  'introspect_opaque',
  'introspect_jwt',
  'verify_token',
  'issue_revoke',
  'discovery',
  'jwks',
] as const
export type ScenarioName = (typeof SCENARIO_NAMES)[number]

export const CONTENDER_NAMES = [
  'latchkey',
  'oidc-provider-memory',
  'oidc-provider-redis',
  'better-auth',
  'bare',
] as const
export type ContenderName = (typeof CONTENDER_NAMES)[number]

/** The contenders that Latchkey is held against. */
export type PeerName = Exclude<ContenderName, 'latchkey'>

export const CONNECTIONS = 32
/** Signed-in people; connections share them, four to one, as browsers of one company would. */
export const ACCOUNTS = 8
export const SERVER_CORE = 0
export const LOAD_CORE = 1

export const DEFAULT_REPETITIONS = 5
export const DEFAULT_SECONDS = 5
export const DEFAULT_WARM_UP_SECONDS = 3
/** What a database is filled with for `--growth`. */
export const DEFAULT_TOKENS = 1_000_000

/** A peer that does less than this share of its figure is taken for misconfigured: no ratio against it is claimed. */
export const FIGURE_SHARE = 0.7

/** Operations per CPU-second of the server, November 2026, Node 24.21, Redis 7.0, PostgreSQL 15, a shared 2-core machine. */
export const FIGURES: Record<PeerName, Partial<Record<ScenarioName, number>>> = {
  bare: {
    verify_token: 12_255,
    client_credentials: 2370,
    refresh: 2079,
    code_pkce: 1573,
    introspect_opaque: 9653,
    introspect_jwt: 2720,
    issue_revoke: 4010,
    discovery: 16_400,
    jwks: 18_100,
  },
  'oidc-provider-memory': {
    client_credentials: 1610,
    refresh: 958,
    code_pkce: 535,
    introspect_opaque: 3198,
    issue_revoke: 1379,
    discovery: 3249,
    jwks: 7321,
  },
  'oidc-provider-redis': {
    client_credentials: 1364,
    refresh: 831,
    code_pkce: 367,
    introspect_opaque: 2008,
    issue_revoke: 1066,
    // Discovery and the key set touch no store: the figures are those of the memory adapter.
    discovery: 3249,
    jwks: 7321,
  },
  'better-auth': {
    verify_token: 591,
    client_credentials: 208,
    refresh: 108,
    code_pkce: 60,
    introspect_opaque: 292,
    issue_revoke: 172,
    discovery: 1190,
    jwks: 464,
  },
}

/** Latchkey's throughput divided by the peer's, at least. */
export const GOALS: Partial<Record<PeerName, Partial<Record<ScenarioName, number>>>> = {
  'better-auth': {
    verify_token: 12,
    client_credentials: 7,
    refresh: 7,
    code_pkce: 6,
    introspect_opaque: 15,
    issue_revoke: 8,
    discovery: 10,
    jwks: 10,
  },
  'oidc-provider-redis': {
    client_credentials: 1.1,
    refresh: 1,
    code_pkce: 1.1,
    introspect_opaque: 2.5,
    issue_revoke: 1.2,
    discovery: 2,
    jwks: 2,
  },
  bare: {
    verify_token: 0.7,
    client_credentials: 0.6,
    refresh: 0.4,
    code_pkce: 0.3,
    introspect_opaque: 0.6,
    introspect_jwt: 0.7,
    discovery: 0.8,
    jwks: 0.8,
  },
}

/** What nobody else does is held against another scenario of our own: its throughput divided by the other's, at least. */
export const OWN_GOALS: Partial<Record<ScenarioName, { of: ScenarioName; ratio: number }>> = {
  token_exchange: { of: 'client_credentials', ratio: 0.7 },
}

/** Latchkey's peak memory after all scenarios, divided by the peer's, at most. */
export const MEMORY_GOALS: Partial<Record<PeerName, number>> = { 'better-auth': 0.75, 'oidc-provider-redis': 1.1 }
