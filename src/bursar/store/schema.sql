-- Written by `make schema`; do not edit.
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE api_keys (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	hint VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	workspace VARCHAR, 
	user_id VARCHAR, 
	acts_for_users INTEGER NOT NULL, 
	created_at VARCHAR NOT NULL, 
	revoked_at VARCHAR, 
	PRIMARY KEY (id), 
	CONSTRAINT api_keys_role CHECK (role in ('admin', 'member')), 
	UNIQUE (digest)
);

CREATE TABLE ledger_bodies (
	name BLOB NOT NULL, 
	workspace VARCHAR NOT NULL, 
	body TEXT NOT NULL, 
	created_at VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);

CREATE TABLE ledger_corrections (
	spool_id VARCHAR NOT NULL, 
	start BIGINT NOT NULL, 
	seq BIGINT NOT NULL, 
	call_id VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	reason TEXT NOT NULL, 
	created_at VARCHAR NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	total_tokens BIGINT NOT NULL, 
	cached_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	reasoning_tokens BIGINT NOT NULL, 
	cost_nanos BIGINT NOT NULL, 
	cost_usd_nanos BIGINT NOT NULL, 
	PRIMARY KEY (spool_id, start)
);

CREATE INDEX ledger_corrections_call ON ledger_corrections (call_id, attempt);

CREATE TABLE ledger_entries (
	call_id VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	seq BIGINT NOT NULL, 
	spool_id VARCHAR NOT NULL, 
	created_at VARCHAR NOT NULL, 
	completed_at VARCHAR, 
	hour INTEGER NOT NULL, 
	workspace VARCHAR NOT NULL, 
	user_id VARCHAR, 
	session_id VARCHAR, 
	turn VARCHAR, 
	request_id VARCHAR, 
	function VARCHAR, 
	purpose VARCHAR, 
	tags TEXT, 
	key_id VARCHAR, 
	provider VARCHAR NOT NULL, 
	provider_type VARCHAR NOT NULL, 
	provider_url VARCHAR NOT NULL, 
	requested_model VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	served_model VARCHAR, 
	reason VARCHAR NOT NULL, 
	method_type VARCHAR NOT NULL, 
	status VARCHAR NOT NULL, 
	http_status INTEGER, 
	error_kind VARCHAR, 
	error_code VARCHAR, 
	error_message TEXT, 
	finish_reason VARCHAR, 
	provider_response_id VARCHAR, 
	prompt_tokens BIGINT, 
	completion_tokens BIGINT, 
	total_tokens BIGINT, 
	cached_tokens BIGINT, 
	cache_write_tokens BIGINT, 
	reasoning_tokens BIGINT, 
	provider_total_tokens BIGINT, 
	audio_ms BIGINT, 
	images BIGINT, 
	search_units BIGINT, 
	usage_source VARCHAR NOT NULL, 
	raw_usage TEXT, 
	cost_nanos BIGINT, 
	cost_currency VARCHAR, 
	cost_usd_nanos BIGINT, 
	cost_source VARCHAR, 
	price_id VARCHAR, 
	response_time_ms BIGINT, 
	time_to_first_token_ms BIGINT, 
	idempotency_key VARCHAR, 
	client_retries INTEGER, 
	dropped TEXT, 
	request_bytes BIGINT NOT NULL, 
	output_bytes BIGINT NOT NULL, 
	input_refs BLOB, 
	params_ref BLOB, 
	text_at VARCHAR, usd_rate VARCHAR, asked_crc BIGINT, answered_crc BIGINT, messages TEXT, params TEXT, output TEXT, text TEXT, 
	PRIMARY KEY (call_id, attempt), 
	CONSTRAINT ledger_entries_status CHECK (status = 'started' or status = 'completed' or status = 'failed' or status = 'cancelled' or status = 'interrupted'), 
	CONSTRAINT ledger_entries_usage_source CHECK (usage_source = 'provider' or usage_source = 'provider_partial' or usage_source = 'estimated' or usage_source = 'none'), 
	CONSTRAINT ledger_entries_plausible CHECK (prompt_tokens between 0 and 1000000000000 and completion_tokens between 0 and 1000000000000 and total_tokens between 0 and 1000000000000 and cached_tokens between 0 and 1000000000000 and cache_write_tokens between 0 and 1000000000000 and reasoning_tokens between 0 and 1000000000000 and response_time_ms between 0 and 1000000000000 and cost_nanos between 0 and 10000000000000000 and cost_usd_nanos between 0 and 10000000000000000)
);

CREATE INDEX ledger_entries_created ON ledger_entries (workspace, created_at, call_id);

CREATE INDEX ledger_entries_hour ON ledger_entries (hour);

CREATE UNIQUE INDEX ledger_entries_seq ON ledger_entries (seq);

CREATE INDEX ledger_entries_session ON ledger_entries (workspace, session_id, created_at) WHERE session_id is not null;

CREATE INDEX ledger_entries_spool ON ledger_entries (spool_id, status);

CREATE INDEX ledger_entries_user ON ledger_entries (workspace, user_id, created_at) WHERE user_id is not null;

CREATE TABLE ledger_gaps (
	spool_id VARCHAR NOT NULL, 
	start BIGINT NOT NULL, 
	count BIGINT NOT NULL, 
	first_at VARCHAR NOT NULL, 
	last_at VARCHAR NOT NULL, 
	PRIMARY KEY (spool_id, start)
);

CREATE TABLE ledger_meta (
	name VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);

CREATE TABLE ledger_rejects (
	spool_id VARCHAR NOT NULL, 
	start BIGINT NOT NULL, 
	reason VARCHAR NOT NULL, 
	detail TEXT, 
	raw BLOB NOT NULL, 
	created_at VARCHAR NOT NULL, 
	PRIMARY KEY (spool_id, start)
);

CREATE TABLE ledger_rollups (
	workspace VARCHAR NOT NULL, 
	hour INTEGER NOT NULL, 
	scope VARCHAR NOT NULL, 
	scope_id VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	function VARCHAR NOT NULL, 
	currency VARCHAR NOT NULL, 
	usage_source VARCHAR NOT NULL, 
	calls BIGINT NOT NULL, 
	attempts BIGINT NOT NULL, 
	completed BIGINT NOT NULL, 
	failed BIGINT NOT NULL, 
	cancelled BIGINT NOT NULL, 
	interrupted BIGINT NOT NULL, 
	without_usage BIGINT NOT NULL, 
	estimated BIGINT NOT NULL, 
	without_price BIGINT NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	completion_tokens BIGINT NOT NULL, 
	total_tokens BIGINT NOT NULL, 
	cached_tokens BIGINT NOT NULL, 
	cache_write_tokens BIGINT NOT NULL, 
	reasoning_tokens BIGINT NOT NULL, 
	cost_nanos BIGINT NOT NULL, 
	cost_usd_nanos BIGINT NOT NULL, 
	response_time_ms BIGINT NOT NULL, 
	request_bytes BIGINT NOT NULL, 
	output_bytes BIGINT NOT NULL, without_rate BIGINT DEFAULT 0 NOT NULL, 
	PRIMARY KEY (workspace, hour, scope, scope_id, provider, model, purpose, function, currency, usage_source)
);

CREATE INDEX ledger_rollups_hour ON ledger_rollups (hour);

CREATE INDEX ledger_rollups_scope ON ledger_rollups (workspace, scope, scope_id, hour);

CREATE TABLE ledger_spools (
	spool_id VARCHAR NOT NULL, 
	"offset" BIGINT NOT NULL, 
	records BIGINT NOT NULL, 
	entries BIGINT NOT NULL, 
	state VARCHAR NOT NULL, 
	size BIGINT, 
	created_at VARCHAR NOT NULL, 
	PRIMARY KEY (spool_id), 
	CONSTRAINT ledger_spools_state CHECK (state in ('open', 'closed'))
);

CREATE VIEW llm_calls as
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
) s on s.call_id = f.call_id and s.last = f.attempt;

CREATE TABLE llm_providers (
	id VARCHAR NOT NULL, 
	workspace VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	provider_type VARCHAR NOT NULL, 
	base_url VARCHAR, 
	completion_url VARCHAR, 
	embedding_url VARCHAR, 
	token_url VARCHAR, 
	authorization_key TEXT, 
	scope VARCHAR, 
	model VARCHAR, 
	available_models TEXT, 
	request_headers TEXT, 
	request_config TEXT, 
	response_config TEXT, 
	auth_config TEXT, 
	settings TEXT, 
	is_active INTEGER NOT NULL, 
	is_global INTEGER NOT NULL, 
	allow_self_signed_certificate INTEGER NOT NULL, 
	ca_bundle TEXT, 
	secret_values TEXT, 
	is_guarded INTEGER NOT NULL, 
	created_at VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX llm_providers_name ON llm_providers (workspace, name);

CREATE UNIQUE INDEX llm_providers_global ON llm_providers (name) WHERE is_global = 1;

CREATE TABLE llm_routes (
	id VARCHAR NOT NULL, 
	workspace VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	targets TEXT NOT NULL, 
	is_global INTEGER NOT NULL, 
	created_at VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);

CREATE UNIQUE INDEX llm_routes_name ON llm_routes (workspace, name);

CREATE UNIQUE INDEX llm_routes_global ON llm_routes (name) WHERE is_global = 1;

CREATE TABLE llm_bindings (
	id VARCHAR NOT NULL, 
	workspace VARCHAR, 
	scope VARCHAR NOT NULL, 
	reference VARCHAR NOT NULL, 
	provider VARCHAR NOT NULL, 
	model VARCHAR, 
	system_prompt TEXT, 
	temperature FLOAT, 
	top_p FLOAT, 
	max_tokens INTEGER, 
	created_at VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT llm_bindings_scope CHECK (scope in ('action', 'skill', 'workspace', 'default'))
);

CREATE UNIQUE INDEX llm_bindings_of ON llm_bindings (scope, reference, coalesce(workspace, ''));

CREATE TRIGGER llm_providers_insert after insert on llm_providers begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_providers_update after update on llm_providers begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_providers_delete after delete on llm_providers begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_routes_insert after insert on llm_routes begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_routes_update after update on llm_routes begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_routes_delete after delete on llm_routes begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_bindings_insert after insert on llm_bindings begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_bindings_update after update on llm_bindings begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_bindings_delete after delete on llm_bindings begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE VIEW unica_chat_config as
select
  reference as workspace_id, provider, model, system_prompt, temperature, top_p, max_tokens, created_at, updated_at
from llm_bindings where scope = 'workspace' and workspace is null;

CREATE TRIGGER unica_chat_config_insert instead of insert on unica_chat_config begin
  insert into llm_bindings
    (id, workspace, scope, reference, provider, model, system_prompt, temperature, top_p, max_tokens, created_at,
     updated_at)
  values
    (lower(hex(randomblob(16))), null, 'workspace', new.workspace_id, new.provider, new.model, new.system_prompt,
     new.temperature, new.top_p, new.max_tokens, strftime('%Y-%m-%d %H:%M:%f', 'now') || '000', strftime('%Y-%m-%d %H:%M:%f', 'now') || '000');
end;

CREATE TRIGGER unica_chat_config_update instead of update on unica_chat_config begin
  update llm_bindings
  set reference = new.workspace_id, provider = new.provider, model = new.model, system_prompt = new.system_prompt,
    temperature = new.temperature, top_p = new.top_p, max_tokens = new.max_tokens, updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'
  where scope = 'workspace' and workspace is null and reference = old.workspace_id;
end;

CREATE TRIGGER unica_chat_config_delete instead of delete on unica_chat_config begin
  delete from llm_bindings where scope = 'workspace' and workspace is null and reference = old.workspace_id;
end;

CREATE TABLE llm_prices (
	id VARCHAR NOT NULL, 
	workspace VARCHAR, 
	provider VARCHAR, 
	provider_type VARCHAR, 
	model VARCHAR NOT NULL, 
	currency VARCHAR NOT NULL, 
	valid_from VARCHAR, 
	rates TEXT NOT NULL, 
	note TEXT, 
	is_active INTEGER NOT NULL, 
	created_at VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);

CREATE TABLE currency_rates (
	id VARCHAR NOT NULL, 
	currency VARCHAR NOT NULL, 
	usd VARCHAR NOT NULL, 
	valid_from VARCHAR, 
	note TEXT, 
	is_active INTEGER NOT NULL, 
	created_at VARCHAR NOT NULL, 
	updated_at VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);

CREATE TRIGGER llm_prices_insert after insert on llm_prices begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_prices_update after update on llm_prices begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER llm_prices_delete after delete on llm_prices begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER currency_rates_insert after insert on currency_rates begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER currency_rates_update after update on currency_rates begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE TRIGGER currency_rates_delete after delete on currency_rates begin update ledger_meta set value = cast(cast(value as integer) + 1 as text) where name = 'registry_version'; end;

CREATE VIEW llm_call_logs as
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
       union all select n + 1 from i where (n + 1) * 16 < length(e.input_refs))
     select b.body from i join ledger_bodies b
       on b.name = substr(e.input_refs, i.n * 16 + 1, 16)
     order by i.n) m)) as input_messages,
  coalesce(e.params, (select b.body from ledger_bodies b where b.name = e.params_ref)) as input_params,
  e.output as output_response,
  case when e.text_at is not null then json_extract(e.output, e.text_at) else e.text end as completion_text
from ledger_entries e;

insert into alembic_version values ('0005');

insert into ledger_meta values ('seq', '0');

insert into ledger_meta values ('keys_version', '0');

insert into ledger_meta values ('registry_version', '0');

