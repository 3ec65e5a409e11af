// What a contender is to the runner, and what contenders share.
import { fileURLToPath } from 'node:url'
import type { ContenderName, ScenarioName } from '../constants.ts'
import { HttpConnection } from '../http-client.ts'
import { type JsonObject, parseJson, WrongAnswer } from '../oauth.ts'
import { type ServerProcess, startServer, type Usage } from '../server-process.ts'
import {
  MAKE_KEY_PATH,
  REDIRECT_URI,
  RESOURCE,
  type ReadyMessage,
  SCOPE,
  type ServerSettings,
  settingsEnvironment,
} from '../servers/settings.ts'
import type { Credentials, Pasted, Paths, Site } from '../site.ts'
import type { Postgres, RedisStore } from '../stores.ts'

/** What the runner has ready: stores as the contenders chosen need them, and a directory that goes away. */
export interface Stage {
  readonly postgres: Postgres | undefined
  readonly redis: RedisStore | undefined
  readonly directory: string
  /** For one server: where it may listen, and where its output goes. */
  readonly port: number
  readonly logFile: string
}

export interface RunningServer {
  readonly site: Site
  usage(): Promise<Usage>
  /** Ends the process, and removes what it kept in the stores. */
  stop(): Promise<void>
}

export interface Contender {
  readonly name: ContenderName
  readonly needs: readonly ('postgres' | 'redis')[]
  /** Scenarios it cannot serve, and why. */
  readonly refuses: Readonly<Partial<Record<ScenarioName, string>>>
  /** Once a run, before anything is measured. */
  prepare?(stage: Stage): Promise<void>
  /** A fresh process, ready to serve. */
  start(stage: Stage): Promise<RunningServer>
}

export interface PeerServer {
  readonly server: ServerProcess
  readonly client: Credentials
  readonly machine: Credentials
}

/** Starts one of the servers of this directory and waits until it listens. */
export async function startPeer(file: string, stage: Stage, stores: Omit<ServerSettings, 'port'>): Promise<PeerServer> {
  const server = startServer({
    script: [fileURLToPath(new URL(`../servers/${file}`, import.meta.url))],
    environment: settingsEnvironment({ port: stage.port, ...stores }),
    logFile: stage.logFile,
  })
  try {
    // Sent by servers/settings.ts, in this shape.
    const { client, machine } = (await server.message('ready')) as unknown as ReadyMessage
    return { server, client, machine }
  } catch (error) {
    await server.stop()
    throw error
  }
}

/** Where and as whom a peer is asked about a pasted token, where it has such. */
export type VerifyAs = (paths: Paths, peer: PeerServer) => Pasted['verify']

/** The rigs' own way; they do not ask for what. */
async function makeKey(http: HttpConnection): Promise<string> {
  const response = await http.send({ method: 'POST', path: MAKE_KEY_PATH })
  const { key } = parseJson('a new key', response)
  if (typeof key !== 'string') throw new WrongAnswer('a new key', response)
  return key
}

/** The parts of a site that the peers have in common. */
export function peerSite(stage: Stage, peer: PeerServer, paths: Paths, verify?: VerifyAs): Omit<Site, 'signIn'> {
  return {
    port: stage.port,
    headers: {},
    paths,
    client: peer.client,
    machine: peer.machine,
    introspectors: { opaque: peer.client, jwt: peer.machine, issued: peer.machine },
    pasted: verify && { verify: verify(paths, peer), make: makeKey },
    redirectUri: REDIRECT_URI,
    resource: RESOURCE,
    scope: SCOPE,
    issueParameters: { scope: SCOPE },
  }
}

/** The endpoints as the server's own metadata gives them (OpenID Connect Discovery 1.0). */
export async function discover(
  discovery: string,
  { port, headers }: { port: number; headers: Readonly<Record<string, string>> },
): Promise<Paths> {
  const http = new HttpConnection(port, headers)
  try {
    const metadata = parseJson('discovery', await http.send({ method: 'GET', path: discovery }))
    return {
      authorize: endpoint(metadata, 'authorization_endpoint'),
      token: endpoint(metadata, 'token_endpoint'),
      introspect: endpoint(metadata, 'introspection_endpoint'),
      revoke: endpoint(metadata, 'revocation_endpoint'),
      jwks: endpoint(metadata, 'jwks_uri'),
      discovery,
    }
  } finally {
    http.close()
  }
}

function endpoint(metadata: JsonObject, name: string): string {
  const value = metadata[name]
  if (typeof value !== 'string') throw new Error(`the server's metadata has no ${name}`)
  return new URL(value).pathname
}

/** Everything a scenario asks for, asked for once, so that later requests are covered by the approval. */
export const FULL_SCOPE = `openid offline_access ${SCOPE}`
