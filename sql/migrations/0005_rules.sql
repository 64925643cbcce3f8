-- The rules that come with Posthaste. They are rows: change, disable or delete them as you like.

insert into posthaste.rules (name, priority, preset, host, status, outcome, body_pattern, action, description) values
  ('gone', 10, 'shipped', null, '[410,411)', 'answered', null, 'disable_endpoint',
   '410 Gone: the receiver says that it wants no more (Standard Webhooks).'),
  ('ngrok.io: no tunnel', 20, 'shipped', '*.ngrok.io', '[404,405)', 'answered', '(?i)tunnel .+ not found', 'delete_endpoint',
   'A development tunnel that no longer exists.'),
  ('ngrok.app: no tunnel', 20, 'shipped', '*.ngrok.app', '[404,405)', 'answered', '(?i)(tunnel|endpoint) .+ (not found|is offline)', 'delete_endpoint', 'Likewise.'),
  ('ngrok.dev: no tunnel', 20, 'shipped', '*.ngrok.dev', '[404,405)', 'answered', '(?i)(tunnel|endpoint) .+ (not found|is offline)', 'delete_endpoint', 'Likewise.'),
  ('ngrok-free.app: no tunnel', 20, 'shipped', '*.ngrok-free.app', '[404,405)', 'answered', '(?i)(tunnel|endpoint) .+ (not found|is offline)', 'delete_endpoint', 'Likewise.'),
  ('ngrok-free.dev: no tunnel', 20, 'shipped', '*.ngrok-free.dev', '[404,405)', 'answered', '(?i)(tunnel|endpoint) .+ (not found|is offline)', 'delete_endpoint', 'Likewise.'),
  ('ngrok.io: nobody behind the tunnel', 30, 'shipped', '*.ngrok.io', '[502,503)', 'answered', null, 'retry',
   'The tunnel stands, the developer''s server does not run: it may come back.'),
  ('ngrok.app: nobody behind the tunnel', 30, 'shipped', '*.ngrok.app', '[502,503)', 'answered', null, 'retry', 'Likewise.'),
  ('ngrok.dev: nobody behind the tunnel', 30, 'shipped', '*.ngrok.dev', '[502,503)', 'answered', null, 'retry', 'Likewise.'),
  ('ngrok-free.app: nobody behind the tunnel', 30, 'shipped', '*.ngrok-free.app', '[502,503)', 'answered', null, 'retry', 'Likewise.'),
  ('ngrok-free.dev: nobody behind the tunnel', 30, 'shipped', '*.ngrok-free.dev', '[502,503)', 'answered', null, 'retry', 'Likewise.'),
  ('ngrok.io: timed out', 30, 'shipped', '*.ngrok.io', '[504,505)', 'answered', null, 'disable_endpoint', 'The tunnel is dead.'),
  ('ngrok.app: timed out', 30, 'shipped', '*.ngrok.app', '[504,505)', 'answered', null, 'disable_endpoint', 'Likewise.'),
  ('ngrok.dev: timed out', 30, 'shipped', '*.ngrok.dev', '[504,505)', 'answered', null, 'disable_endpoint', 'Likewise.'),
  ('ngrok-free.app: timed out', 30, 'shipped', '*.ngrok-free.app', '[504,505)', 'answered', null, 'disable_endpoint', 'Likewise.'),
  ('ngrok-free.dev: timed out', 30, 'shipped', '*.ngrok-free.dev', '[504,505)', 'answered', null, 'disable_endpoint', 'Likewise.');
