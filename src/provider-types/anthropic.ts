// Anthropic's Messages API.
import { countAt, limitAt, type Metered, memberOf, modelOf, NO_MODEL, type ProviderType } from './rules.ts'

const API_VERSION = '2023-06-01'

const messages: Metered = {
  plan(request) {
    const model = modelOf(request)
    if (model === undefined) return NO_MODEL
    return { ok: true, model, mostOutputTokens: limitAt(request, 'max_tokens'), request }
  },
  createReader() {
    let told: unknown
    let outputTokens = 0
    return {
      read(message) {
        const start = memberOf(message, 'message', 'usage') // of message_start
        const usage = start ?? memberOf(message, 'usage') // of message_delta, whose counts are sums; or of the whole answer
        if (usage === undefined) return
        if (start !== undefined || told === undefined) told = usage
        outputTokens = Math.max(outputTokens, countAt(usage, 'output_tokens'))
      },
      usage() {
        if (told === undefined) return undefined
        return {
          inputTokens: countAt(told, 'input_tokens'),
          outputTokens,
          cacheReadTokens: countAt(told, 'cache_read_input_tokens'),
          cacheWriteTokens: countAt(told, 'cache_creation_input_tokens'),
        }
      },
    }
  },
}

const price = (model: string, input: number, output: number, mostOutputTokens: number) => ({
  model,
  input,
  output,
  cacheRead: input / 10,
  cacheWrite: input * 2, // of the longest kept; the shorter one is less
  mostOutputTokens,
})

export const anthropic: ProviderType = {
  type: 'anthropic',
  name: 'Anthropic',
  baseUrl: 'https://api.anthropic.com',
  example: 'sk-ant-…',
  headers: (apiToken) => ({ 'x-api-key': apiToken, 'anthropic-version': API_VERSION }),
  verification: { path: '/v1/models?limit=1', isGood: (answer) => Array.isArray(memberOf(answer, 'data')) },
  passedHeaders: ['anthropic-version', 'anthropic-beta'],
  endpoints: [
    { method: 'POST', path: '/v1/messages', summary: 'Create a message', metered: messages },
    { method: 'POST', path: '/v1/messages/count_tokens', summary: 'Count the tokens of a message' },
    { method: 'GET', path: '/v1/models', summary: 'List models' },
  ],
  prices: [
    price('claude-opus-4-5', 5_000, 25_000, 64_000),
    price('claude-opus-4-1', 15_000, 75_000, 32_000),
    price('claude-sonnet-4-5', 3_000, 15_000, 64_000),
    price('claude-haiku-4-5', 1_000, 5_000, 64_000),
    price('claude-3-5-haiku', 800, 4_000, 8_192),
  ],
}
