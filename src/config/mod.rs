//! Settings: built-in `default.toml`, a file, the environment and flags, in that order.
