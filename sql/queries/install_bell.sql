-- install_bell: turns the bell's trigger on or off, if it is not so already. Called by store::bell::install.
-- Locks: posthaste.outbox against writers for a moment, at most the function's lock_timeout.
--
-- $1 whether inserts ring
select posthaste_internal.install_bell($1::bool)
