// Sends mail over SMTP (RFC 5321), in plain text. What a mail says is made elsewhere; what must never be in one is refused here.
import type { Transporter } from 'nodemailer'
import type { Secret } from '../crypto/secret.ts'
import { headerText, isPermanentRefusal, type Mail } from './rules.ts'

export interface MailConfig {
  url: Secret
  from: string
}

export interface Mailer {
  /**
   * @returns `refused` where the receiving side takes nothing for this address, now or later
   * @throws {Error} for what another try may mend; its words hold no address
   */
  send(mail: Mail): Promise<'sent' | 'refused'>
  close(): void
}

/** A mail server that is slow is given up after so long, and tried again later. */
const CONNECT_MS = 10_000
const SILENT_MS = 20_000

export function createMailer({ url, from }: MailConfig): Mailer {
  let opening: Promise<Transporter> | undefined

  async function open(): Promise<Transporter> {
    const { createTransport } = await import('nodemailer')
    return createTransport({
      url: url.reveal(),
      connectionTimeout: CONNECT_MS,
      greetingTimeout: CONNECT_MS,
      socketTimeout: SILENT_MS,
      disableFileAccess: true,
      disableUrlAccess: true,
    })
  }

  return {
    async send(mail) {
      opening ??= open()
      const transport = await opening
      try {
        await transport.sendMail({
          from: { name: 'Latchkey', address: from },
          to: { name: '', address: mail.to }, // an address, not a list of them
          subject: headerText(mail.subject),
          text: mail.text,
          messageId: `<${headerText(mail.id)}@${from.split('@').at(-1)}>`,
          headers: { 'Auto-Submitted': 'auto-generated' }, // RFC 3834: nobody's absence answers it
        })
        return 'sent'
      } catch (error) {
        const { code, responseCode } = failureOf(error)
        if (isPermanentRefusal(code, responseCode)) return 'refused'
        throw new Error(`the mail server did not take a mail: ${[code, responseCode].filter(Boolean).join(' ')}`)
      }
    },
    close() {
      opening?.then((transport) => transport.close()).catch(() => undefined)
    },
  }
}

/** What a server answers may repeat the address: only its codes are passed on. */
function failureOf(error: unknown): { code: string; responseCode: number | undefined } {
  if (!(error instanceof Error)) return { code: 'unknown', responseCode: undefined }
  const code: unknown = Reflect.get(error, 'code')
  const responseCode: unknown = Reflect.get(error, 'responseCode')
  return {
    code: typeof code === 'string' ? code : 'unknown',
    responseCode: typeof responseCode === 'number' ? responseCode : undefined,
  }
}
