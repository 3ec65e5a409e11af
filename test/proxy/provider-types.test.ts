// What each provider's requests can cost and what its answers tell, by table.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { anthropic } from '../../src/provider-types/anthropic.ts'
import { openai } from '../../src/provider-types/openai.ts'
import { PROVIDER_TYPES } from '../../src/provider-types/registry.ts'
import { costOf, type Json, mostUsageOf, type ProviderType, priceOf } from '../../src/provider-types/rules.ts'

function meteredOf(type: ProviderType, path: string) {
  const metered = type.endpoints.find((endpoint) => endpoint.path === path)?.metered
  if (metered === undefined) throw new Error(`${path} is not metered`)
  return metered
}
const messages = meteredOf(anthropic, '/v1/messages')
const chat = meteredOf(openai, '/v1/chat/completions')
const responses = meteredOf(openai, '/v1/responses')

function seenIn(metered: typeof messages, ...answer: unknown[]) {
  const reader = metered.createReader()
  for (const message of answer) reader.read(message)
  return reader.seen()
}

describe('prices', () => {
  const used = (type: ProviderType, model: string, usage: object) => {
    const price = priceOf(type, model)
    if (price === undefined) throw new Error(`${model} has no price`)
    const nothing = {
      inputTokens: 0,
      outputTokens: 0,
      cacheReadTokens: 0,
      cacheWriteTokens: 0,
      longCacheWriteTokens: 0,
    }
    return costOf(price, { ...nothing, ...usage })
  }

  it('of a model with a date of its own are its own', () => {
    expect(used(openai, 'gpt-4o-2024-05-13', { inputTokens: 1_000_000 })).toBe(5_000_000n)
    expect(used(openai, 'gpt-4o-2024-08-06', { inputTokens: 1_000_000 })).toBe(2_500_000n)
  })

  it.each([
    [{ ephemeral_5m_input_tokens: 1_000_000, ephemeral_1h_input_tokens: 0 }, 3_750_000n],
    [{ ephemeral_5m_input_tokens: 0, ephemeral_1h_input_tokens: 1_000_000 }, 6_000_000n],
    [{ ephemeral_5m_input_tokens: 400_000, ephemeral_1h_input_tokens: 600_000 }, 5_100_000n],
    [undefined, 6_000_000n], // nobody said for how long: the dearer
  ])('of what is cached are those of its time: %j', (cache_creation, cost) => {
    const usage = { input_tokens: 0, cache_creation_input_tokens: 1_000_000, cache_creation, output_tokens: 0 }
    const { told } = seenIn(messages, { message: { usage } }, { usage: { ...usage, cache_creation: undefined } })
    expect(used(anthropic, 'claude-sonnet-4-5', told ?? {})).toBe(cost)
  })

  it('are those that the documentation lists', () => {
    const documented = readFileSync(new URL('../../docs/api.md', import.meta.url), 'utf8')
    const rows = [...documented.matchAll(/^\| `(\w+)` \| `([\w.-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$/gm)]
    expect(rows.map(([, type, model, ...prices]) => [type, model, ...prices.map(Number)])).toEqual(
      PROVIDER_TYPES.flatMap(({ type, prices }) =>
        prices.map(({ model, input, output, cacheRead = input }) => [
          type,
          model,
          ...[input, output, cacheRead].map((nanos) => nanos / 1_000),
        ]),
      ),
    )
  })

  it('the most of a request is each byte at the dearest', () => {
    const price = priceOf(anthropic, 'claude-sonnet-4-5')
    if (price === undefined) throw new Error('there is none')
    const plan = { requestBytes: 1_000, mostOutputTokens: 100, choices: 2 }
    expect(costOf(price, mostUsageOf(price, plan, 0))).toBe(6_000n + 3_000n)
    expect(costOf(price, mostUsageOf(price, plan, 500))).toBe(9_000n + 3_000n)
    expect(costOf(price, mostUsageOf(price, plan, 'context'))).toBe(1_200_000n + 3_000n)
    expect(mostUsageOf(price, { ...plan, mostOutputTokens: 1e9, choices: 1e9 }, 0).outputTokens).toBe(1e9)
  })
})

describe('a plan', () => {
  it.each([
    [chat, { n: 128 }, { mostOutputTokens: undefined, choices: 128 }],
    [chat, { n: null, max_tokens: null }, { mostOutputTokens: undefined, choices: 1 }],
    [chat, { n: 2, max_tokens: 5 }, { mostOutputTokens: 5, choices: 2 }],
    [chat, { max_completion_tokens: 7, max_tokens: 5 }, { mostOutputTokens: 7, choices: 1 }],
    [chat, { max_completion_tokens: 1, max_tokens: 16_384 }, { mostOutputTokens: 16_384, choices: 1 }],
    [messages, { max_tokens: 9 }, { mostOutputTokens: 9, choices: 1 }],
    [messages, { max_tokens: 9, thinking: { budget_tokens: 60 } }, { mostOutputTokens: 60, choices: 1 }],
    [responses, { max_output_tokens: 9 }, { mostOutputTokens: 9, choices: 1 }],
  ])('$1', (metered, request, expected) => {
    expect(metered.plan({ model: 'm', ...request })).toMatchObject({ ok: true, ...expected })
  })

  it.each([
    [chat, { n: 0 }],
    [chat, { n: -1 }],
    [chat, { n: 1.5 }],
    [chat, { n: '2' }],
    [chat, { max_tokens: -1 }],
    [chat, { max_completion_tokens: 1.5 }],
    [chat, { max_completion_tokens: Number.POSITIVE_INFINITY }],
    [messages, { max_tokens: [5] }],
    [responses, { max_output_tokens: true }],
  ])('of %o refuses %j', (metered, request) => {
    const plan = metered.plan({ model: 'm', ...request })
    expect(plan).toMatchObject({ ok: false, problem: expect.stringContaining('must be a whole number') })
  })
})

describe('a bound', () => {
  const image = { type: 'image', source: { type: 'base64', data: 'iVBO' } }
  const ANTHROPIC: Array<[Json, number | 'context' | 'none']> = [
    [{}, 0],
    [{ messages: [{ role: 'user', content: 'image' }], service_tier: 'standard_only' }, 0],
    [{ messages: [{ role: 'user', content: [{ type: 'text', text: '{"type":"image"}' }] }] }, 0],
    [
      {
        tools: [
          { name: 'a', input_schema: {} },
          { type: 'bash_20250124', name: 'bash' },
        ],
      },
      3_000,
    ],
    [{ messages: [{ role: 'user', content: [image] }] }, 'context'],
    [{ messages: [{ role: 'user', content: [{ type: 'tool_result', content: [image] }] }] }, 'context'],
    [
      { messages: [{ role: 'user', content: [{ type: 'document', source: { type: 'file', file_id: 'f' } }] }] },
      'context',
    ],
    [{ system: [image] }, 'context'],
    [{ tools: [{ type: 'web_search_20250305' }] }, 'none'],
    [{ tools: [{ type: 'code_execution_20250825' }] }, 'none'],
    [{ tools: [{ type: 'web_search_20250305', name: 'a' }, { name: 'b' }] }, 'none'],
    [{ mcp_servers: [] }, 'none'],
    [{ output_format: { type: 'json_schema', schema: {} } }, 1_000],
    [{ service_tier: 'priority' }, 'none'],
    [{ speed: 'fast' }, 'none'],
  ]
  const OPENAI: Array<[Json, number | 'context' | 'none']> = [
    [{ input: 'Hi', tools: [{ type: 'function' }], service_tier: 'default' }, 0],
    [{ messages: [{ role: 'user', content: [{ type: 'text', text: 'image_url' }] }], service_tier: null }, 0],
    [{ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: 'https://a' } }] }] }, 'context'],
    [{ input: [{ role: 'user', content: [{ type: 'input_file', file_id: 'f' }] }] }, 'context'],
    [{ previous_response_id: 'resp_1' }, 'context'],
    [{ input: [{ type: 'reasoning', id: 'rs_1', summary: [] }] }, 'context'],
    [{ input: [{ type: 'reasoning', id: 'rs_1', encrypted_content: 'x', summary: [] }] }, 0],
    [
      {
        input: [
          { type: 'message', id: 'msg_1', content: 'x' },
          { role: 'user', content: 'x' },
        ],
      },
      0,
    ],
    [{ service_tier: 'flex' }, 'none'],
    [{ service_tier: 'priority' }, 'none'],
    [{ tools: [{ type: 'web_search' }] }, 'none'],
    [{ web_search_options: {} }, 'none'],
    [{ prompt: { id: 'pmpt_1' } }, 'none'],
    [{ prediction: { type: 'content', content: 'Hi' } }, 'none'],
  ]
  it.each([
    ...ANTHROPIC.map(([request, expected]) => ({ metered: messages, request, expected })),
    ...OPENAI.map(([request, expected]) => ({ metered: chat, request, expected })),
    ...OPENAI.map(([request, expected]) => ({ metered: responses, request, expected })),
  ])('of $request is $expected', ({ metered, request, expected }) => {
    const bound = metered.bound(request, {})
    expect(bound.ok ? bound.besides : 'none').toBe(expected)
  })

  it.each([
    ['', true],
    ['fine-grained-tool-streaming-2025-05-14', true],
    ['claude-code-20250219, Interleaved-Thinking-2025-05-14,', true],
    ['prompt-caching-2024-07-31,context-1m-2025-08-07', false],
    ['of-tomorrow-2027-01-01', false],
  ])('with the betas “%s” is known: %s', (betas, expected) => {
    expect(messages.bound({}, { 'anthropic-beta': betas }).ok).toBe(expected)
  })
})

describe('what is seen of an answer', () => {
  it('of Anthropic is the highest of every count, and the text, the arguments and the thinking', () => {
    const seen = seenIn(
      messages,
      { type: 'message_start', message: { usage: { input_tokens: 20, cache_read_input_tokens: 5, output_tokens: 1 } } },
      { type: 'content_block_delta', delta: { type: 'text_delta', text: 'äöü' } },
      { type: 'content_block_delta', delta: { type: 'input_json_delta', partial_json: '{"a"' } },
      { type: 'content_block_delta', delta: { type: 'thinking_delta', thinking: 'hm' } },
      { type: 'content_block_delta', delta: { type: 'signature_delta', signature: 'EqQB' } },
    )
    expect(seen).toMatchObject({ told: { inputTokens: 20, outputTokens: 1 }, isLast: false, textBytes: 12 })
    const whole = seenIn(
      messages,
      { message: { usage: { input_tokens: 20, cache_read_input_tokens: 5, output_tokens: 1 } } },
      { usage: { input_tokens: 10, cache_read_input_tokens: 50, output_tokens: 9 } },
    )
    expect(whole).toMatchObject({ told: { inputTokens: 20, cacheReadTokens: 50, outputTokens: 9 }, isLast: true })
  })

  it('of chat completions is their last usage, and the text, refusals and arguments', () => {
    const choice = (delta: object, finish_reason: string | null = null) => ({ choices: [{ delta, finish_reason }] })
    const call = { function: { name: 'f', arguments: '{}' } }
    const seen = seenIn(chat, choice({ role: 'assistant', content: 'four' }), choice({ refusal: 'no' }), {
      ...choice({ tool_calls: [call, call] }),
      usage: { prompt_tokens: 9, completion_tokens: 4 },
    })
    expect(seen).toMatchObject({ told: { outputTokens: 4 }, isLast: false, textBytes: 12 })
    expect(seenIn(chat, { choices: [], usage: { prompt_tokens: 9, completion_tokens: 7 } })).toMatchObject({
      told: { inputTokens: 9, outputTokens: 7 },
      isLast: true,
    })
  })

  it.each([
    [{}],
    [{ input_tokens: 1 }],
    [{ input_tokens: 1, output_tokens: -1 }],
    [{ input_tokens: -1, output_tokens: 1 }],
    [{ input_tokens: 1, output_tokens: Number.POSITIVE_INFINITY }],
    [{ input_tokens: 1, output_tokens: '1' }],
    [{ input_tokens: 1.5, output_tokens: 1 }],
  ])('with a usage of %j is not told', (usage) => {
    for (const metered of [messages, chat, responses]) expect(seenIn(metered, { usage }).isLast).toBe(false)
    expect(seenIn(chat, { usage: { input_tokens: 1, output_tokens: 0 } }, { usage })).toMatchObject({ isLast: true })
  })

  it('of embeddings is told by their input alone', () => {
    const embeddings = meteredOf(openai, '/v1/embeddings')
    expect(seenIn(embeddings, { usage: { prompt_tokens: 5 } })).toMatchObject({
      told: { inputTokens: 5 },
      isLast: true,
    })
    expect(seenIn(embeddings, { usage: {} })).toMatchObject({ told: undefined, isLast: false })
  })

  it('of responses is that of the completed one, and every delta', () => {
    const seen = seenIn(
      responses,
      { type: 'response.created', response: { usage: null } },
      { type: 'response.output_text.delta', delta: 'four' },
      { type: 'response.function_call_arguments.delta', delta: '{}' },
    )
    expect(seen).toEqual({ told: undefined, isLast: false, textBytes: 6 })
    const completed = { type: 'response.completed', response: { usage: { input_tokens: 1, output_tokens: 2 } } }
    expect(seenIn(responses, completed)).toMatchObject({ told: { outputTokens: 2 }, isLast: true })
  })
})
