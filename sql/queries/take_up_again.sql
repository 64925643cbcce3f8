-- take_up_again: takes up what was set aside, where it is time to. Called by store::upkeep::take_up_again.
-- Index: none; what is set aside is little. Locks: see the function.
select posthaste_internal.take_up_again()
