-- Belongs to the subject of the table `attempts`. No CHECK restricts `cause`, so the new causes need none; these are
-- the comments that are to say what is true now.
comment on column posthaste.attempts.cause is
  'For timed_out the phase (resolve, connect, tls, headers); for unreachable and refused the kind (dns, connection_refused, reset, tls_expired, forbidden_address, bad_endpoint, bad_event: its headers are more than are sent; fault: a bug of the relay, …).';
comment on column posthaste.attempts.detail is
  'The outcome in more words; for answered what was odd about the answer, or what is not kept of it.';
comment on column posthaste.attempts.response_headers is
  'The response''s headers as {"name": "value"}, in lower case, up to 4 KiB; detail says how many more there were.';
comment on column posthaste.attempts.reason is
  'Why the verdict is what it is, where it is not plain. "sent twice": the request went over a connection that had been kept, which was closed without a byte of an answer, and once more over a new one.';

-- Belongs to the checks of events and endpoints: the relay leaves out names that a CGI-like receiver reads as ours
-- (src/relay/headers.rs, `read_alike`: every sign that is neither letter nor digit counts as a hyphen), so that
-- `posthaste.are_endpoint_headers` may refuse them:
--   regexp_replace(lower(name), '[^a-z0-9]', '-', 'g') is one of the list, or begins with 'webhook-'.
