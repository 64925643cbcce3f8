-- posthaste.check_rule, whole: what the table takes is what the relay reads. Belongs beside the other triggers of rules.

create or replace function posthaste.check_rule() returns trigger
  language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  -- The relay matches with an engine of its own (Rust's regex), which no body can make run for ever. What
  -- PostgreSQL reads otherwise (\b, \x41, \<, (?m), [[:<:]], a brace that is no bound) or it does not know (look-around,
  -- back-references) is refused by leaving it out here.
  escape constant text := '\\[dDwWsSntrfv]|\\[!-/:;=?@[-`{-~]';
  class  constant text := '\[\^?([^][\\&~-]|-(?!-)|&(?!&)|~(?!~)|' || escape
    || '|\[:(alnum|alpha|blank|cntrl|digit|graph|lower|print|punct|space|upper|xdigit):\])+\]';
  common constant text := '^(?!\*)(\(\?[is]{1,2}\))?([^[\\({]|\(\?:|\((?!\?)|\{[0-9]{1,3}(,([0-9]{1,3})?)?\}|'
    || escape || '|' || class || ')*$';
  repeats numeric;
  wrong text;
begin
  begin
    perform '' ~ new.body_pattern;
  exception when invalid_regular_expression then
    wrong := 'is not a regular expression: ' || sqlerrm;
  end;
  if wrong is null and new.body_pattern !~ common then
    wrong := case
      when new.body_pattern ~ '\(\?<?[=!]' then 'has look-around'
      when new.body_pattern ~ '\\[1-9]' then 'has a back-reference'
      else 'has something that the relay''s engine does not know or reads otherwise' end;
  end if;
  if wrong is null then
    -- A repetition is compiled as often as it says, one within another as often as both say together.
    select exp(sum(ln(greatest(coalesce(nullif(b[2], ''), b[1])::numeric, 1)))) into repeats
      from regexp_matches(regexp_replace(new.body_pattern, '\\.', '', 'g'), '\{([0-9]+)(?:,([0-9]*))?\}', 'g') b;
    if length(new.body_pattern) * coalesce(repeats, 1) > 2000 then
      wrong := 'is too large: its length times its repetitions may be 2000';
    end if;
  end if;
  if wrong is not null then
    raise exception 'rule %: body_pattern %', new.name, wrong
      using errcode = 'check_violation', constraint = 'body_pattern_is_a_regular_expression',
            hint = 'Known are . [a-z] [^a-z] [[:alpha:]] ( ) (?: ) | * + ? {2} {2,} {2,9} ^ $ \d \w \s \D \W \S \n \t \r \f \v, '
                || 'a backslash before punctuation other than < and >, and (?i) at the beginning.';
  end if;
  return new;
end $$;
comment on function posthaste.check_rule is
  'Refuses a rule whose body_pattern the relay cannot match, or would read otherwise than PostgreSQL, by its name.';
comment on column posthaste.rules.body_pattern is
  'Regular expression that the kept part of the response body must contain; (?i) for any case. A dot matches a line break too.';
