//! Faults around Posthaste, and what follows from them: a process is killed, a database, a network,
//! a host or an endpoint misbehaves, an operator restores a dump or fails over.

mod crash;
mod culprit;
mod honest_health;
mod host_faults;

mod database_faults;
mod database_tls;
mod elsewhere;
mod failover;
mod network_faults;
mod open_transactions;
mod pgbench;
mod places;
mod pooler;
mod restore;
mod sessions;
mod strangers;
mod unflushed;

mod hostile;
mod hour_down;
mod one_bad_row;
