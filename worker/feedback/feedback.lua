-- Everything that changes feedback in Redis. Each command happens whole or not at all, for any number of processes.
--
-- ARGV[1]   the layout that the caller expects in captioner:layout; "" before there is any
-- ARGV[2]   the command; its arguments follow, and stand above the command below
--
-- KEYS, each ":<project>" but for the first two and `counts`; all begin with "captioner:"
--   layout              text   number of the layout of all these keys
--   projects            set    projects that ever had a correction
--   feedback            hash   name -> record as JSON, and what it adds to the totals; a name is "<annotation id>/<control>"
--   index               zset   "a:<name>" and "t:<task id>:<name>", to find names by annotation and by task
--   times               zset   names of the records with a caption, by updated_at in microseconds since 1970
--   changed             zset   names whose caption came, changed or went after the last training, by change number
--   changes             hash   last, claimed, trained: change numbers; touches: number of events that touched a task;
--                              generation: number of changes that the memory has to follow;
--                              reworded: generation of the last change that concerns every suggestion;
--                              taught-by-memory: exists while trainings are rare; worker/feedback/waiting.py writes it
--   latest              zset   names whose caption came, changed, went, was excluded or included, or got its image, ever, by the
--                              generation of their last change; worker/feedback/caption_changes.py reads it
--   unseen              set    names of captions that no training has ever read
--   excluded            hash   name -> {reason, automatic} of captions that are stored and not trained on
--   removed             hash   "a:<annotation id>", "t:<task id>" -> {at, annotation_uid, created_at, ...} of what is gone, so that a late
--                              event does not bring it back; "n:<name>" -> {record, excluded}, to restore it as it was
--   removed-at          zset   fields of `removed`, by Redis' time in seconds
--   touched             hash   task id -> number; there while the next pull has to read the task
--   pulled              hash   task id -> the time Label Studio gave when the task was read last; "read-as" -> see pull.py
--   ledger-totals       hash   "<counter>:<arm>:<annotator>:<version>" -> number; no annotator means everybody
--   ledger-words        hash   "<arm>:<word>" -> captions that contain it
--   ledger-spectrum     hash   "<arm>:<captions>" -> words that are in so many captions
--   ledger-weeks        hash   "<counter>:<arm>:<Monday>" -> number, without the counters of lead times
--   counts              hash   of all projects, ever growing; worker/queue/job_metrics.py describes it
--   suggestions         list   of one task (":<task>" follows), newest first; worker/feedback/suggestions.py describes it
--
-- A change number is the microsecond of the change on Redis' clock, made strictly increasing, so that it orders
-- changes and says when they happened. Totals that come to zero are deleted.

local LAYOUT, PROJECTS, FEEDBACK, INDEX, TIMES, CHANGED, CHANGES, UNSEEN, EXCLUDED, REMOVED, REMOVED_AT, TOUCHED, PULLED,
  TOTALS, WORDS, SPECTRUM, LATEST, WEEKS, COUNTS, SUGGESTIONS = unpack(KEYS)

local REMOVED_KEPT_S = 24 * 3600  -- longer than any event of a removed state can be on its way
local FORGOTTEN_AT_ONCE = 100
local SUGGESTIONS_KEPT = 20  -- of each task; alternatives of one version count one by one
local SUGGESTIONS_KEPT_S = 180 * 24 * 3600

local commands = {}

local function whole(number) return string.format('%.0f', number) end

local function known(value) return value ~= nil and value ~= cjson.null and value ~= '' end

-- Totals

local function add(key, field, number)
  local sum = redis.call('HINCRBY', key, field, whole(number))
  if sum == 0 then redis.call('HDEL', key, field) end
  return sum
end

local function count_week(record, sign)
  if not known(record.week) then return end  -- as in records from before the weeks were counted
  for counter, number in pairs(record.counts) do
    if not string.find(counter, '^took_') then
      add(WEEKS, counter .. ':' .. record.arm .. ':' .. record.week, sign * number)
    end
  end
end

local function count(record, sign)
  local version = known(record.model_version) and record.model_version or ''
  local cells = {record.arm .. '::' .. version}
  if known(record.annotator) then cells[2] = record.arm .. ':' .. whole(record.annotator) .. ':' .. version end
  for counter, number in pairs(record.counts) do
    for _, cell in ipairs(cells) do add(TOTALS, counter .. ':' .. cell, sign * number) end
  end
  count_week(record, sign)
  for _, word in ipairs(record.words) do
    local after = add(WORDS, record.arm .. ':' .. word, sign)
    local before = after - sign
    if before > 0 then add(SPECTRUM, record.arm .. ':' .. whole(before), -1) end
    if after > 0 then add(SPECTRUM, record.arm .. ':' .. whole(after), 1) end
  end
end

local function report(noun, record, what)
  redis.call('HINCRBY', COUNTS, noun .. ':' .. whole(record.project_id) .. ':' .. what, 1)
end

-- Changes that a training has to learn

local function next_change()
  local now = redis.call('TIME')
  local last = tonumber(redis.call('HGET', CHANGES, 'last') or '0')
  local number = whole(math.max(now[1] * 1000000 + now[2], last + 1))
  redis.call('HSET', CHANGES, 'last', number)
  return number
end

-- Let the memory read this caption again.
local function renew(name) redis.call('ZADD', LATEST, redis.call('HINCRBY', CHANGES, 'generation', 1), name) end

local function is_training()
  local claimed, trained = unpack(redis.call('HMGET', CHANGES, 'claimed', 'trained'))
  return tonumber(claimed or '0') > tonumber(trained or '0')
end

local function caption_came(name, had_caption)
  -- A training reads some time after its start, and a failed training looks like a running one here.
  if not had_caption and not is_training() and not redis.call('ZSCORE', CHANGED, name) then
    redis.call('SADD', UNSEEN, name)
  end
  redis.call('ZADD', CHANGED, next_change(), name)
  renew(name)
end

local function caption_went(name)
  local number = next_change()
  renew(name)
  redis.call('ZREM', TIMES, name)
  redis.call('HDEL', EXCLUDED, name)
  -- If no training has read the caption, nothing is to be unlearned. Otherwise its removal is a change.
  if redis.call('SREM', UNSEEN, name) == 1 then
    redis.call('ZREM', CHANGED, name)
  else
    redis.call('ZADD', CHANGED, number, name)
  end
end

-- Tasks that the next pull has to read, and memories of what is gone

local function touch(task_id)
  local number = redis.call('HINCRBY', CHANGES, 'touches', 1)
  redis.call('HSET', TOUCHED, whole(task_id), number)
  return number
end

local function remember_removed(field, value)
  local now = tonumber(redis.call('TIME')[1])
  local old = redis.call('ZRANGEBYSCORE', REMOVED_AT, '-inf', now - REMOVED_KEPT_S, 'LIMIT', 0, FORGOTTEN_AT_ONCE)
  if #old > 0 then
    redis.call('HDEL', REMOVED, unpack(old))
    redis.call('ZREM', REMOVED_AT, unpack(old))
  end
  redis.call('HSET', REMOVED, field, cjson.encode(value))
  redis.call('ZADD', REMOVED_AT, now, field)
end

local function recall_removed(field)
  local value = redis.call('HGET', REMOVED, field)
  return value and cjson.decode(value) or nil
end

local function forget_removed(field)
  redis.call('HDEL', REMOVED, field)
  redis.call('ZREM', REMOVED_AT, field)
end

-- Records

local function find(prefix)
  local found = {}
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', INDEX, '[' .. prefix, '(' .. prefix .. '\255')) do
    local name = string.match(entry, '^a:(.*)$') or string.match(entry, '^t:%d+:(.*)$')
    local json = redis.call('HGET', FEEDBACK, name)
    if json then found[#found + 1] = {name = name, json = json, record = cjson.decode(json)} end
  end
  return found
end

local function of_annotation(annotation_id) return find('a:' .. whole(annotation_id) .. '/') end

-- Say whether two records are about one annotation. Label Studio reuses ids. Its events tell the UUID, its pages do not;
-- both tell when the annotation was created. Layout 1 did not record that.
local function is_same_annotation(record, other)
  if known(record.annotation_uid) and known(other.annotation_uid) then
    return record.annotation_uid == other.annotation_uid
  end
  return not known(record.created_at) or not known(other.created_at) or record.created_at == other.created_at
end

-- Say whether Label Studio, which holds `other`, holds what was recorded. Layout 1 did not record every image.
local function is_same(record, other)
  return is_same_annotation(record, other) and record.updated_at == other.updated_at
    and record.caption == other.caption and record.task_id == other.task_id
    and (known(record.image_ref) or not known(record.caption))
end

local function take_out(name, record)
  redis.call('HDEL', FEEDBACK, name)
  redis.call('ZREM', INDEX, 'a:' .. name, 't:' .. whole(record.task_id) .. ':' .. name)
  count(record, -1)
end

local function keep_copy(before)
  local copy = {record = before.json, excluded = redis.call('HGET', EXCLUDED, before.name) or nil}
  remember_removed('n:' .. before.name, copy)
end

-- Store a record in place of what its name held. Returns whether a caption came, changed or went.
local function put(name, json, time)
  local record = cjson.decode(json)
  local had_caption, text = false, redis.call('HGET', FEEDBACK, name)
  if text then
    local before = cjson.decode(text)
    had_caption = known(before.caption)
    local is_another = not is_same_annotation(before, record)
    if had_caption and (is_another or not known(record.caption)) then keep_copy({name = name, json = text}) end
    if is_another then redis.call('HDEL', EXCLUDED, name) end
    take_out(name, before)
  end
  redis.call('HSET', FEEDBACK, name, json)
  redis.call('ZADD', INDEX, 0, 'a:' .. name, 0, 't:' .. whole(record.task_id) .. ':' .. name)
  count(record, 1)
  report('correction', record, record.outcome)
  for _, kind in ipairs(record.kinds) do report('edit', record, kind) end
  if not known(record.caption) then
    if had_caption then caption_went(name) end
    return had_caption
  end
  local excluded = redis.call('HGET', EXCLUDED, name)
  if excluded and cjson.decode(excluded).automatic then redis.call('HDEL', EXCLUDED, name) end
  redis.call('SADD', PROJECTS, whole(record.project_id))
  redis.call('ZADD', TIMES, time, name)
  caption_came(name, had_caption)
  return true
end

-- Returns whether a caption went.
local function drop(found)
  local had_caption = known(found.record.caption)
  keep_copy(found)
  take_out(found.name, found.record)
  if had_caption then caption_went(found.name) end
  report('correction', found.record, 'removed')
  return had_caption
end

-- Store what Label Studio holds. If its record was removed or overwritten by mistake, that record is restored.
local function restore(name, json, time)
  local record, copy = cjson.decode(json), recall_removed('n:' .. name)
  local is_restored = copy and is_same(cjson.decode(copy.record), record)
  local is_changed = put(name, is_restored and copy.record or json, time)
  if is_restored then
    if known(copy.excluded) then redis.call('HSET', EXCLUDED, name, copy.excluded) end
    forget_removed('n:' .. name)
  end
  return is_changed
end

-- Say whether a state of an annotation is "new", "known" already, or "refused" because it seems old.
--   newest             the newest record of its id
--   annotation, task   what is remembered of the removal of its id, and of its task's
local function compare(state, newest, annotation, task)
  if newest then
    if is_same_annotation(newest, state) and newest.updated_at == state.updated_at then return 'known' end
    return newest.updated_at < state.updated_at and 'new' or 'refused'
  end
  local created_at = known(state.created_at) and state.created_at or state.updated_at
  local is_identified = annotation and (known(annotation.annotation_uid) or known(annotation.created_at))
  if is_identified and is_same_annotation(annotation, state) then
    if annotation.is_empty and state.is_empty and annotation.at == state.updated_at then return 'known' end
    if annotation.at >= state.updated_at then return 'refused' end
  elseif annotation and annotation.at >= created_at then
    return 'refused'
  end
  if task and task.at >= created_at then return 'refused' end
  return 'new'
end

-- Remember that an annotation is gone, or holds nothing.
--   record   its newest
--   more     number: of the event in `touches`; is_empty: it holds nothing; is_expected: its event is still to come
local function remember_annotation(record, more)
  more.at, more.annotation_uid, more.created_at = record.updated_at, record.annotation_uid, record.created_at
  remember_removed('a:' .. whole(record.annotation_id), more)
end

-- Store what an annotation holds now.
--   state     JSON: project_id, task_id, annotation_id, annotation_uid, created_at, updated_at, emptied, is_whole, is_empty
--   name, record, time   of each of its submissions
-- Returns "new", "known" or "refused", how many captions were stored, and how many removed.
function commands.record(state, ...)
  state = cjson.decode(state)
  local before, rows = of_annotation(state.annotation_id), {...}
  local newest
  for _, found in ipairs(before) do
    if not newest or newest.updated_at < found.record.updated_at then newest = found.record end
  end
  local field = 'a:' .. whole(state.annotation_id)
  local gone = recall_removed(field)
  local verdict = compare(state, newest, gone, recall_removed('t:' .. whole(state.task_id)))
  if verdict == 'known' then return {verdict, 0, 0} end
  touch(state.task_id)
  if verdict == 'refused' then return {verdict, 0, 0} end

  local is_another = newest and not is_same_annotation(newest, state)
  local is_emptied, is_written, stored, removed = {}, {}, 0, 0
  for _, control in ipairs(state.emptied) do is_emptied[whole(state.annotation_id) .. '/' .. control] = true end
  for row = 1, #rows, 3 do is_written[rows[row]] = true end
  for _, found in ipairs(before) do
    if found.record.task_id ~= state.task_id then touch(found.record.task_id) end
    local is_gone = is_another or state.is_whole or is_emptied[found.name]
    if is_gone and not is_written[found.name] and drop(found) then removed = removed + 1 end
  end
  for row = 1, #rows, 3 do
    local is_changed = put(rows[row], rows[row + 1], rows[row + 2])
    if is_changed and known(cjson.decode(rows[row + 1]).caption) then
      stored = stored + 1
    elseif is_changed then
      removed = removed + 1
    end
  end
  if state.is_empty then
    remember_annotation(state, {is_empty = true})
  elseif is_another then
    -- The event that deleted the other annotation is still to come.
    remember_annotation(newest, {is_expected = true})
  elseif gone and is_same_annotation(gone, state) then
    forget_removed(field)
  end
  return {verdict, stored, removed}
end

-- Remove the records of one annotation that Label Studio says is deleted; its event names the id only.
--   annotation_id
--   now            when the event came, as updated_at is written
--   recently       a moment before that
-- Returns how many captions were removed, and 1 when the event may mean an earlier annotation with this id.
function commands.remove_annotation(annotation_id, now, recently)
  local field = 'a:' .. annotation_id
  local before, gone = of_annotation(tonumber(annotation_id)), recall_removed(field)
  if #before == 0 then
    local number = redis.call('HINCRBY', CHANGES, 'touches', 1)
    remember_removed(field, {at = now, number = number})
    return {0, 0}
  end
  local newest, number, removed = before[1].record, nil, 0
  for _, found in ipairs(before) do
    if newest.updated_at < found.record.updated_at then newest = found.record end
    number = touch(found.record.task_id)
  end
  if gone and gone.is_expected then
    gone.is_expected, gone.number = nil, number
    remember_removed(field, gone)
    return {0, 1}
  end
  for _, found in ipairs(before) do
    if drop(found) then removed = removed + 1 end
  end
  remember_annotation(newest, {number = number})
  return {removed, (gone or newest.updated_at > recently) and 1 or 0}
end

-- Remove the records and the suggestions of one task that Label Studio says is deleted; its event names the id only.
--   task_id, now, recently   as above
-- Returns the same.
function commands.remove_task(task_id, now, recently)
  local field, removed, is_recent = 't:' .. task_id, 0, false
  local gone = recall_removed(field)
  local before = find('t:' .. task_id .. ':')
  local number = touch(tonumber(task_id))
  for _, found in ipairs(before) do
    is_recent = is_recent or found.record.updated_at > recently
    if drop(found) then removed = removed + 1 end
    remember_annotation(found.record, {number = number})
  end
  remember_removed(field, {at = now, number = number})
  -- A second event may be a late copy of the first, while the id belongs to another task already.
  if not gone then redis.call('UNLINK', SUGGESTIONS) end
  return {removed, #before > 0 and (gone or is_recent) and 1 or 0}
end

-- Make the records of one task equal to what was just read in Label Studio.
--   task_id
--   number        of the task in `touched` before Label Studio was asked; "" when it was not there
--   since         `touches` before Label Studio was asked
--   time          Label Studio's time of the task; "" when it lists none
--   is_complete   "1" unless something of the task could not be read
--   removed       JSON: names of records that it no longer holds
--   name, record, time   of each submission that it holds
-- Returns whether it is done ("0" when the task was touched meanwhile; then nothing is changed), how many captions were
-- stored, how many removed, and "1" if another task had a record under one of the names and must be read, too.
function commands.replace_task(task_id, number, since, time, is_complete, gone, ...)
  local rows, stored, removed, is_taken = {...}, 0, 0, 0
  if (redis.call('HGET', TOUCHED, task_id) or '') ~= number then return {0, 0, 0, 0} end
  for row = 1, #rows, 3 do
    local late = recall_removed('a:' .. string.match(rows[row], '^%d+'))
    if late and late.number and late.number > tonumber(since) then
      touch(tonumber(task_id))
      return {0, 0, 0, 0}
    end
  end
  for _, name in ipairs(cjson.decode(gone)) do
    local json = redis.call('HGET', FEEDBACK, name)
    local record = json and cjson.decode(json)
    if record and whole(record.task_id) == task_id then
      if drop({name = name, json = json, record = record}) then removed = removed + 1 end
      remember_annotation(record, {})
    end
  end
  for row = 1, #rows, 3 do
    local name, json = rows[row], rows[row + 1]
    local text = redis.call('HGET', FEEDBACK, name)
    local before, record = text and cjson.decode(text), cjson.decode(json)
    if not (before and is_same(before, record)) then
      if before and before.task_id ~= record.task_id then
        touch(before.task_id)
        is_taken = 1
      end
      local is_changed = restore(name, json, rows[row + 2])
      if is_changed and known(record.caption) then stored = stored + 1 elseif is_changed then removed = removed + 1 end
    end
  end
  if time ~= '' then forget_removed('t:' .. task_id) end
  if is_complete ~= '1' then
    touch(tonumber(task_id))
    redis.call('HDEL', PULLED, task_id)
  else
    redis.call('HDEL', TOUCHED, task_id)
    if time == '' then redis.call('HDEL', PULLED, task_id) else redis.call('HSET', PULLED, task_id, time) end
  end
  return {1, stored, removed, is_taken}
end

-- Replace a record if nobody changed it meanwhile; this is no change for a training.
--   name, before, after   both as JSON
function commands.amend(name, before, after)
  if redis.call('HGET', FEEDBACK, name) ~= before then return 0 end
  redis.call('HSET', FEEDBACK, name, after)
  renew(name)
  return 1
end

-- Exclude a caption from training; this counts as a change.
--   name, why   JSON {reason, automatic}
function commands.exclude(name, why)
  local json = redis.call('HGET', FEEDBACK, name)
  if not json or not known(cjson.decode(json).caption) then return 0 end
  if redis.call('HEXISTS', EXCLUDED, name) == 1 then
    -- What a person decides stands, and is no change where the caption is excluded already.
    if not cjson.decode(why).automatic then redis.call('HSET', EXCLUDED, name, why) end
    return 0
  end
  redis.call('HSET', EXCLUDED, name, why)
  redis.call('ZADD', CHANGED, next_change(), name)
  renew(name)
  return 1
end

-- Undo `exclude`; a change.
--   name
function commands.include(name)
  if redis.call('HDEL', EXCLUDED, name) == 0 then return 0 end
  redis.call('ZADD', CHANGED, next_change(), name)
  renew(name)
  return 1
end

-- Let the memory read every caption, where earlier builds wrote no generations.
function commands.renew_all()
  if redis.call('EXISTS', LATEST) == 1 then return 0 end
  local names = redis.call('ZRANGE', TIMES, 0, -1)
  for _, name in ipairs(names) do renew(name) end
  return #names
end

-- A rule of the project's wording was switched, so every suggestion of an earlier generation is out of date. No caption
-- changed. Returns the new generation.
function commands.reword()
  local generation = redis.call('HINCRBY', CHANGES, 'generation', 1)
  redis.call('HSET', CHANGES, 'reworded', generation)
  return generation
end

-- Let a training begin with everything up to now. Returns the newest change number.
function commands.claim()
  local last = redis.call('HGET', CHANGES, 'last') or '0'
  redis.call('HSET', CHANGES, 'claimed', last)
  redis.call('DEL', UNSEEN)
  return last
end

-- A training has seen every change up to this number.
--   number
function commands.mark_trained(number)
  local trained = tonumber(redis.call('HGET', CHANGES, 'trained') or '0')
  if tonumber(number) > trained then redis.call('HSET', CHANGES, 'trained', number) end
  return redis.call('ZREMRANGEBYSCORE', CHANGED, '-inf', number)
end

-- Remember suggestions of one task, the last one as the newest. The same one again only becomes the newest.
--   record   of each, as JSON
function commands.suggest(...)
  local function place(suggestion)
    local withheld = suggestion.withheld or false
    return cjson.encode({suggestion.control, suggestion.model_version, suggestion.image_ref_sha256, withheld})
  end
  local counted = {}
  for _, json in ipairs(redis.call('LRANGE', SUGGESTIONS, 0, -1)) do counted[place(cjson.decode(json))] = true end
  for _, json in ipairs({...}) do
    local suggestion = cjson.decode(json)
    if not counted[place(suggestion)] then
      counted[place(suggestion)] = true
      local arm = suggestion.withheld and 'withheld' or 'shown'
      redis.call('HINCRBY', TOTALS, 'tasks:' .. arm .. '::' .. suggestion.model_version, 1)
    end
    redis.call('LREM', SUGGESTIONS, 0, json)
    redis.call('LPUSH', SUGGESTIONS, json)
  end
  redis.call('LTRIM', SUGGESTIONS, 0, SUGGESTIONS_KEPT - 1)
  redis.call('EXPIRE', SUGGESTIONS, SUGGESTIONS_KEPT_S)
end

-- Take a record over from layout 1; its old keys stay. See worker/feedback/layout.py.
--   name, record, time   time is "" without a caption
--   counted   the totals have this record of the ledger, as JSON; "" when they have none; "same" when they have it as it is
function commands.adopt(name, json, time, counted)
  if redis.call('HSETNX', FEEDBACK, name, json) == 0 then return 0 end
  local record = cjson.decode(json)
  redis.call('ZADD', INDEX, 0, 'a:' .. name, 0, 't:' .. whole(record.task_id) .. ':' .. name)
  if time ~= '' then
    redis.call('ZADD', TIMES, time, name)
    renew(name)
  end
  if counted == 'same' then return 1 end
  if counted ~= '' then count(cjson.decode(counted), -1) end
  count(record, 1)
  return 1
end

if (redis.call('GET', LAYOUT) or '') ~= ARGV[1] then return redis.error_reply('LAYOUT is another one') end
return commands[ARGV[2]](unpack(ARGV, 3))
