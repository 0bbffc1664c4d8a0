"""The inbox of corrections as Redis keeps it: its keys, and the scripts that change them, each whole or not at all.

captioner:projects               set    projects that ever had a correction
captioner:corrections:<project>  hash   name -> correction as JSON; its name is "<annotation id>/<control>"
captioner:times:<project>        zset   names by updated_at, in microseconds since 1970
captioner:index:<project>        zset   "a:<name>" and "t:<task id>:<name>", to find names by annotation and task
captioner:changed:<project>      zset   names of what changed after the last training, by change number
captioner:changes:<project>      hash   last, taken (by a training that started) and trained: change numbers
captioner:removed:<project>      hash   name -> updated_at of what was removed, so that a late replay stays out
captioner:set-aside:<project>    hash   name -> {reason, by_job} of what is stored and not trained on
captioner:unseen:<project>       set    names of what came after the last training, which no training has ever read
"""

PROJECTS_KEY = "captioner:projects"
KEYS = ("corrections", "index", "changed", "changes", "removed", "set-aside", "times", "unseen")

REMOVED_KEPT_S = 24 * 3600
"""How long a removal is remembered: longer than any event or pull of the removed state can be under way."""

SHARED = f"""
local PROJECTS, CORRECTIONS, INDEX, CHANGED, CHANGES, REMOVED, SET_ASIDE, TIMES, UNSEEN = unpack(KEYS)

local function next_change()
  local now = redis.call('TIME')
  local last = tonumber(redis.call('HGET', CHANGES, 'last') or '0')
  local number = string.format('%.0f', math.max(now[1] * 1000000 + now[2], last + 1))
  redis.call('HSET', CHANGES, 'last', number)
  return number
end

local function is_training()
  local taken, trained = unpack(redis.call('HMGET', CHANGES, 'taken', 'trained'))
  return tonumber(taken or '0') > tonumber(trained or '0')
end

local function task_entry(name, correction)
  return string.format('t:%.0f:%s', correction.task_id, name)
end

local function remember_removal(name, updated_at)
  redis.call('HSET', REMOVED, name, updated_at)
  redis.call('EXPIRE', REMOVED, {REMOVED_KEPT_S})
end
"""

STORE = (
    SHARED
    + """
local project, task, name, updated_at, json, time = unpack(ARGV)
local before = redis.call('HGET', CORRECTIONS, name)
if before then
  before = cjson.decode(before)
  if before.updated_at >= updated_at then return 0 end
  redis.call('ZREM', INDEX, task_entry(name, before))
end
local removed = redis.call('HGET', REMOVED, name)
if removed and removed >= updated_at then return 0 end

local aside = redis.call('HGET', SET_ASIDE, name)
if aside and cjson.decode(aside).by_job then redis.call('HDEL', SET_ASIDE, name) end
redis.call('SADD', PROJECTS, project)
redis.call('HSET', CORRECTIONS, name, json)
redis.call('ZADD', TIMES, time, name)
redis.call('ZADD', INDEX, 0, 'a:' .. name, 0, 't:' .. task .. ':' .. name)
-- A training reads what is here some time after it has started, and one that failed is not told from one that runs.
if not before and not is_training() and not redis.call('ZSCORE', CHANGED, name) then
  redis.call('SADD', UNSEEN, name)
end
redis.call('ZADD', CHANGED, next_change(), name)
return 1
"""
)

REMOVE = (
    SHARED
    + """
local first, last, up_to = unpack(ARGV)
local count = 0
for _, entry in ipairs(redis.call('ZRANGEBYLEX', INDEX, first, last)) do
  local name = string.match(entry, '^a:(.*)$') or string.match(entry, '^t:%d+:(.*)$')
  local correction = cjson.decode(redis.call('HGET', CORRECTIONS, name))
  if up_to == '' or correction.updated_at <= up_to then
    redis.call('HDEL', CORRECTIONS, name)
    redis.call('ZREM', TIMES, name)
    redis.call('HDEL', SET_ASIDE, name)
    redis.call('ZREM', INDEX, 'a:' .. name, task_entry(name, correction))
    remember_removal(name, up_to == '' and correction.updated_at or up_to)
    local number = next_change()
    -- What no training has read is simply gone; what one has read, in whatever state, must be trained away.
    if redis.call('SREM', UNSEEN, name) == 1 then
      redis.call('ZREM', CHANGED, name)
    else
      redis.call('ZADD', CHANGED, number, name)
    end
    count = count + 1
  end
end
return count
"""
)

REPLACE = (
    SHARED
    + """
local name, before, after = unpack(ARGV)
if redis.call('HGET', CORRECTIONS, name) ~= before then return 0 end
redis.call('HSET', CORRECTIONS, name, after)
return 1
"""
)

PUT_ASIDE = (
    SHARED
    + """
local name, why = unpack(ARGV)
if redis.call('HEXISTS', CORRECTIONS, name) == 0 then return 0 end
if redis.call('HEXISTS', SET_ASIDE, name) == 1 then
  -- What a person decides stands, and is no change where it is left out already.
  if not cjson.decode(why).by_job then redis.call('HSET', SET_ASIDE, name, why) end
  return 0
end
redis.call('HSET', SET_ASIDE, name, why)
redis.call('ZADD', CHANGED, next_change(), name)
return 1
"""
)

USE_AGAIN = (
    SHARED
    + """
local name = ARGV[1]
if redis.call('HDEL', SET_ASIDE, name) == 0 then return 0 end
redis.call('ZADD', CHANGED, next_change(), name)
return 1
"""
)

TAKE = (
    SHARED
    + """
local last = redis.call('HGET', CHANGES, 'last') or '0'
redis.call('HSET', CHANGES, 'taken', last)
redis.call('DEL', UNSEEN)
return last
"""
)

MARK_TRAINED = (
    SHARED
    + """
local number = ARGV[1]
local trained = tonumber(redis.call('HGET', CHANGES, 'trained') or '0')
if tonumber(number) > trained then redis.call('HSET', CHANGES, 'trained', number) end
return redis.call('ZREMRANGEBYSCORE', CHANGED, '-inf', number)
"""
)


def inbox_key(noun: str, project_id: int) -> str:
    return f"captioner:{noun}:{project_id}"


def inbox_keys(project_id: int) -> list[str]:
    """Return the keys that every script takes, in its order."""
    return [PROJECTS_KEY, *(inbox_key(noun, project_id) for noun in KEYS)]
