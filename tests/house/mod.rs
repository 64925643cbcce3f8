//! The house itself: its rules, its documents, its schema, and how it is installed and called.

mod checklist;
mod guides;
mod readme;
mod sql_reference;
mod tidy;
mod told_once;

mod growth;
mod lists;
mod plans;
mod plans_of_steps;
mod recording;
mod schema;

mod command_line;
mod doctor;
mod installing;
mod receive;

mod harness;
