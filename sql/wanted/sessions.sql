-- Belongs where check_rule is created (the triggers of rules). Its body is read again in each session that
-- calls it, and has backslashes: under `standard_conforming_strings = off`, which an operator may have set
-- for the database, they mean something else. Write it as a clause of `create function`, beside search_path.
-- The same for every other function with a string body that has a backslash in a literal; there is none now.
alter function posthaste.check_rule() set standard_conforming_strings = on;
