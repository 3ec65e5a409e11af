// What each member of an access token means, for a newcomer (RFC 7519 §4.1, RFC 9068 §2).
export const MEANINGS: Record<string, string> = {
  alg: 'How it is signed: an elliptic curve key, whose public half anyone may fetch.',
  typ: 'It is an access token, and not to be taken for any other kind of JWT.',
  kid: 'Which of the published keys signed it.',
  iss: 'Who made it: this server.',
  sub: 'Who it acts for: you.',
  aud: 'Which API it is for. Any other must refuse it.',
  client_id: 'Which app it was given to.',
  jti: 'Its own name, unlike that of any other token.',
  iat: 'When it was made.',
  exp: 'When it stops working by itself.',
  scope: 'What it allows, as you approved it.',
  workspace_id: 'The workspace you chose. It works in no other.',
  organization_id: 'The organization that the workspace belongs to.',
  environment: 'Production, staging or development: an API takes only its own.',
  token_version: 'The generation of the connection. Raising it ends every older token.',
  credential_id: 'The connection behind it: what you end when you disconnect.',
}
