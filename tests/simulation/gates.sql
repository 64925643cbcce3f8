-- Where a slow statement stops: at a lock that the simulation holds. A session is slow if it has a
-- number; each of its gates is a lock of its own. Other sessions pass without calling anything.
create function simulation.wait_at_gate() returns trigger language plpgsql as $$
begin
  -- Locks of the gate are waited for without end, all others as long as everywhere.
  perform set_config('lock_timeout', '0', true);
  perform pg_advisory_xact_lock_shared(7777, current_setting('simulation.slow')::integer * 10 + tg_argv[0]::integer);
  perform set_config('lock_timeout', '30ms', true);
  return case when tg_op = 'DELETE' then old else new end;
end $$;

create trigger gate_1 before insert on posthaste.routing for each statement
  when (current_setting('simulation.slow', true) <> '') execute function simulation.wait_at_gate(1);
create trigger gate_2 before insert or update or delete on posthaste.deliveries for each statement
  when (current_setting('simulation.slow', true) <> '') execute function simulation.wait_at_gate(2);
create trigger gate_3 before insert or update or delete on posthaste.deliveries for each row
  when (current_setting('simulation.slow', true) <> '') execute function simulation.wait_at_gate(3);
create trigger gate_2 before insert or update or delete on posthaste.claims for each statement
  when (current_setting('simulation.slow', true) <> '') execute function simulation.wait_at_gate(2);
create trigger gate_3 before insert or update or delete on posthaste.claims for each row
  when (current_setting('simulation.slow', true) <> '') execute function simulation.wait_at_gate(3);
create trigger gate_4 before insert on posthaste.attempts for each statement
  when (current_setting('simulation.slow', true) <> '') execute function simulation.wait_at_gate(4);
