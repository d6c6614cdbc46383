"""The views others read: `llm_call_logs`, one row an attempt, and `llm_calls`, one row a call."""

from __future__ import annotations

from bursar.store.port import BODY_NAME_BYTES

LLM_CALL_LOGS = f"""
create view llm_call_logs as
select
  e.call_id || ':' || e.attempt as id,
  e.call_id, e.attempt,
  e.attempt = (select max(l.attempt) from ledger_entries l where l.call_id = e.call_id) as is_final,
  e.seq, e.created_at, e.created_at as started_at, e.completed_at,
  e.workspace, e.user_id, e.session_id, e.turn, e.request_id, e.function as edge_function, e.purpose, e.tags,
  e.key_id, e.provider, e.provider_type, e.provider_url, e.requested_model, e.model, e.served_model, e.reason,
  e.method_type, e.status, e.error_message, e.error_kind, e.error_code, e.http_status as http_status_code,
  e.prompt_tokens, e.completion_tokens, e.total_tokens, e.cached_tokens, e.cache_write_tokens,
  e.reasoning_tokens, e.provider_total_tokens, e.audio_ms, e.images, e.search_units, e.usage_source, e.raw_usage,
  e.provider_total_tokens <> e.prompt_tokens + e.completion_tokens as usage_mismatch,
  e.cost_nanos / 1000000000.0 as cost, e.cost_nanos, e.cost_currency,
  e.cost_usd_nanos / 1000000000.0 as cost_usd, e.cost_usd_nanos, e.usd_rate, e.cost_source, e.price_id,
  e.response_time_ms, e.time_to_first_token_ms, e.finish_reason, e.provider_response_id,
  e.idempotency_key, e.client_retries, e.dropped, e.request_bytes, e.output_bytes,
  coalesce(e.messages, (select '[' || group_concat(m.body, ',') || ']' from (
     with recursive i (n) as (
       select 0 where length(e.input_refs) > 0
       union all select n + 1 from i where (n + 1) * {BODY_NAME_BYTES} < length(e.input_refs))
     select b.body from i join ledger_bodies b
       on b.name = substr(e.input_refs, i.n * {BODY_NAME_BYTES} + 1, {BODY_NAME_BYTES})
     order by i.n) m)) as input_messages,
  coalesce(e.params, (select b.body from ledger_bodies b where b.name = e.params_ref)) as input_params,
  e.output as output_response,
  case when e.text_at is not null then json_extract(e.output, e.text_at) else e.text end as completion_text
from ledger_entries e
"""

LLM_CALLS = """
create view llm_calls as
select
  f.call_id, s.attempts, f.created_at as last_attempt_at, s.created_at, f.completed_at,
  f.workspace, f.user_id, f.session_id, f.turn, f.request_id, f.function as edge_function, f.purpose, f.tags,
  f.provider, f.requested_model, f.model, f.served_model, f.method_type, f.status, f.error_message,
  f.http_status as http_status_code, f.finish_reason,
  s.prompt_tokens, s.completion_tokens, s.total_tokens, s.cached_tokens, s.reasoning_tokens,
  s.audio_ms, s.images, s.search_units,
  s.cost_nanos / 1000000000.0 as cost, s.cost_currency, s.cost_usd_nanos / 1000000000.0 as cost_usd,
  s.attempts_without_usage, s.attempts_estimated, s.response_time_ms, f.time_to_first_token_ms
from ledger_entries f
join (
  select call_id, max(attempt) as last, count(*) as attempts, min(created_at) as created_at,
    sum(prompt_tokens) as prompt_tokens, sum(completion_tokens) as completion_tokens,
    sum(total_tokens) as total_tokens, sum(cached_tokens) as cached_tokens,
    sum(reasoning_tokens) as reasoning_tokens, sum(audio_ms) as audio_ms, sum(images) as images,
    sum(search_units) as search_units,
    case when count(distinct cost_currency) <= 1 then sum(cost_nanos) end as cost_nanos,
    case when count(distinct cost_currency) <= 1 then max(cost_currency) end as cost_currency,
    sum(cost_usd_nanos) as cost_usd_nanos, sum(response_time_ms) as response_time_ms,
    sum(case when usage_source = 'none' then 1 else 0 end) as attempts_without_usage,
    sum(case when usage_source = 'estimated' then 1 else 0 end) as attempts_estimated
  from ledger_entries group by call_id
) s on s.call_id = f.call_id and s.last = f.attempt
"""

_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"

UNICA_CHAT_CONFIG = (
    """
create view unica_chat_config as
select
  reference as workspace_id, provider, model, system_prompt, temperature, top_p, max_tokens, created_at, updated_at
from llm_bindings where scope = 'workspace' and workspace is null
""",
    f"""
create trigger unica_chat_config_insert instead of insert on unica_chat_config begin
  insert into llm_bindings
    (id, workspace, scope, reference, provider, model, system_prompt, temperature, top_p, max_tokens, created_at,
     updated_at)
  values
    (lower(hex(randomblob(16))), null, 'workspace', new.workspace_id, new.provider, new.model, new.system_prompt,
     new.temperature, new.top_p, new.max_tokens, {_NOW}, {_NOW});
end
""",
    f"""
create trigger unica_chat_config_update instead of update on unica_chat_config begin
  update llm_bindings
  set reference = new.workspace_id, provider = new.provider, model = new.model, system_prompt = new.system_prompt,
    temperature = new.temperature, top_p = new.top_p, max_tokens = new.max_tokens, updated_at = {_NOW}
  where scope = 'workspace' and workspace is null and reference = old.workspace_id;
end
""",
    """
create trigger unica_chat_config_delete instead of delete on unica_chat_config begin
  delete from llm_bindings where scope = 'workspace' and workspace is null and reference = old.workspace_id;
end
""",
)
"""What a workspace's chats are served by, as the documents name it: to be read and to be written."""


def moves_version(table: str) -> list[str]:
    """Triggers by which every change of a table, whoever makes it, moves the registry's version."""
    return [
        f"create trigger {table}_{event} after {event} on {table} begin "
        "update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end"
        for event in ("insert", "update", "delete")
    ]
