// A plain Redis adapter for oidc-provider: a key an artifact, a list of keys a grant, as the library's example has it.
import { Redis } from 'ioredis'
import type { Adapter, AdapterPayload } from 'oidc-provider'

const GRANTABLE = new Set(['AccessToken', 'AuthorizationCode', 'RefreshToken'])
const CONSUMABLE = new Set(['AuthorizationCode', 'RefreshToken'])

const grantKey = (grantId: string) => `oidc:grant:${grantId}`
const uidKey = (uid: string) => `oidc:uid:${uid}`

/** What oidc-provider calls with a model's name to get its adapter. */
export function redisAdapter(url: string): (name: string) => Adapter {
  const client = new Redis(url)

  return (name) => {
    const keyOf = (id: string) => `oidc:${name}:${id}`

    const find = async (id: string): Promise<AdapterPayload | undefined> => {
      if (!CONSUMABLE.has(name)) return parsePayload(await client.get(keyOf(id)))
      const { payload, ...rest } = await client.hgetall(keyOf(id))
      const parsed = parsePayload(payload)
      return parsed && { ...rest, ...parsed }
    }

    return {
      find,
      async findByUid(uid) {
        const id = await client.get(uidKey(uid))
        return id === null ? undefined : find(id)
      },
      // The device flow is off.
      findByUserCode: async () => undefined,
      async upsert(id, payload, expiresIn) {
        const key = keyOf(id)
        const text = JSON.stringify(payload)
        const multi = client.multi()
        if (CONSUMABLE.has(name)) multi.hset(key, { payload: text })
        else multi.set(key, text)
        if (expiresIn) multi.expire(key, expiresIn)
        if (GRANTABLE.has(name) && payload.grantId) {
          const list = grantKey(payload.grantId)
          multi.rpush(list, key)
          const ttl = await client.ttl(list)
          if (expiresIn && expiresIn > ttl) multi.expire(list, expiresIn)
        }
        if (payload.uid && expiresIn) multi.set(uidKey(payload.uid), id, 'EX', expiresIn)
        await multi.exec()
      },
      async consume(id) {
        await client.hset(keyOf(id), 'consumed', Math.floor(Date.now() / 1000))
      },
      async destroy(id) {
        await client.del(keyOf(id))
      },
      async revokeByGrantId(grantId) {
        const list = grantKey(grantId)
        const keys = await client.lrange(list, 0, -1)
        await client.del(list, ...keys)
      },
    }
  }
}

function parsePayload(text: string | null | undefined): AdapterPayload | undefined {
  return text ? (JSON.parse(text) as AdapterPayload) : undefined // stored by upsert
}
