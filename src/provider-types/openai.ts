// OpenAI's chat completions, responses and embeddings.
import {
  countAt,
  isJson,
  type Json,
  limitAt,
  type Metered,
  memberOf,
  modelOf,
  NO_MODEL,
  type ProviderType,
  type UsageReader,
} from './rules.ts'

const chat: Metered = {
  plan(request) {
    const model = modelOf(request)
    if (model === undefined) return NO_MODEL
    const most = limitAt(request, 'max_completion_tokens') ?? limitAt(request, 'max_tokens')
    const choices = limitAt(request, 'n') ?? 1
    // Without it a stream says nothing of what was used.
    const options = isJson(request.stream_options) ? request.stream_options : {}
    const telling: Json =
      request.stream === true ? { ...request, stream_options: { ...options, include_usage: true } } : request
    return { ok: true, model, mostOutputTokens: most && most * choices, request: telling }
  },
  createReader: () => readerOf((message) => memberOf(message, 'usage')),
}

const responses: Metered = {
  plan(request) {
    const model = modelOf(request)
    if (model === undefined) return NO_MODEL
    if (request.background === true)
      return { ok: false, problem: 'A response in the background tells nobody what it used: leave out “background”.' }
    return { ok: true, model, mostOutputTokens: limitAt(request, 'max_output_tokens'), request }
  },
  createReader: () => readerOf((message) => memberOf(message, 'response', 'usage') ?? memberOf(message, 'usage')),
}

const embeddings: Metered = {
  plan(request) {
    const model = modelOf(request)
    return model === undefined ? NO_MODEL : { ok: true, model, mostOutputTokens: undefined, request }
  },
  createReader: () => readerOf((message) => memberOf(message, 'usage')),
}

/** The last usage that is told is the whole of it. Cached tokens are among those of the input. */
function readerOf(usageIn: (message: unknown) => unknown): UsageReader {
  let told: unknown
  return {
    read(message) {
      const usage = usageIn(message)
      if (isJson(usage)) told = usage
    },
    usage() {
      if (told === undefined) return undefined
      const input = countAt(told, 'input_tokens') || countAt(told, 'prompt_tokens')
      const cached =
        countAt(told, 'input_tokens_details', 'cached_tokens') ||
        countAt(told, 'prompt_tokens_details', 'cached_tokens')
      const cacheReadTokens = Math.min(cached, input)
      return {
        inputTokens: input - cacheReadTokens,
        outputTokens: countAt(told, 'output_tokens') || countAt(told, 'completion_tokens'),
        cacheReadTokens,
        cacheWriteTokens: 0,
      }
    },
  }
}

export const openai: ProviderType = {
  type: 'openai',
  name: 'OpenAI',
  baseUrl: 'https://api.openai.com',
  example: 'sk-…',
  headers: (apiToken) => ({ authorization: `Bearer ${apiToken}` }),
  verification: { path: '/v1/models', isGood: (answer) => Array.isArray(memberOf(answer, 'data')) },
  passedHeaders: ['openai-beta'],
  endpoints: [
    { method: 'POST', path: '/v1/chat/completions', summary: 'Create a chat completion', metered: chat },
    { method: 'POST', path: '/v1/responses', summary: 'Create a response', metered: responses },
    { method: 'POST', path: '/v1/embeddings', summary: 'Create embeddings', metered: embeddings },
    { method: 'GET', path: '/v1/models', summary: 'List models' },
  ],
  prices: [
    { model: 'gpt-5', input: 1_250, output: 10_000, cacheRead: 125, mostOutputTokens: 128_000 },
    { model: 'gpt-5-mini', input: 250, output: 2_000, cacheRead: 25, mostOutputTokens: 128_000 },
    { model: 'gpt-5-nano', input: 50, output: 400, cacheRead: 5, mostOutputTokens: 128_000 },
    { model: 'gpt-4.1', input: 2_000, output: 8_000, cacheRead: 500, mostOutputTokens: 32_768 },
    { model: 'gpt-4.1-mini', input: 400, output: 1_600, cacheRead: 100, mostOutputTokens: 32_768 },
    { model: 'gpt-4o', input: 2_500, output: 10_000, cacheRead: 1_250, mostOutputTokens: 16_384 },
    { model: 'gpt-4o-mini', input: 150, output: 600, cacheRead: 75, mostOutputTokens: 16_384 },
    { model: 'text-embedding-3-small', input: 20, output: 0, mostOutputTokens: 0 },
    { model: 'text-embedding-3-large', input: 130, output: 0, mostOutputTokens: 0 },
  ],
}
