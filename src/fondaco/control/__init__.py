"""Control: the process beside the data plane that people and operators talk to, and the supervisor that keeps all of them running.

`fondaco up DIR` runs `supervisor`, which starts three processes and restarts each when it ends: the tailer (`fondaco.store.tailing`), the
data plane (`fondaco.dataplane.serve`) and the control API (`serve`, Starlette on granian). No row is read through the control API: it
steers stores and shows what is going on, and may be slow without a read being slow. Errors are the data plane's: same bodies, same codes.

    GET    /v1/endpoints                        {"data": ["http://127.0.0.1:7071"], "control": "http://127.0.0.1:7070", "version": "0.1.0"}
    GET    /v1/stores                           {"stores": [description, ...]}: as `Store.describe()`
    POST   /v1/stores                           {"name", "key", "value", and settings as in `create_store`}; 201, or 200 if created alike
    GET    /v1/stores/{store}                   description
    DELETE /v1/stores/{store}                   {"deleted": name}
    GET    /v1/stores/{store}/schemas           {"schemas": [{"number", "schema", "created_us"}, ...]}
    POST   /v1/stores/{store}/schemas           {"value": Avro} -> {"number": n}
    GET    /v1/stores/{store}/versions          {"versions": [version, ...]}: as `Store.versions()`; ?all=true
    POST   /v1/stores/{store}/swap              {"version": n} -> {"current": n}
    POST   /v1/stores/{store}/rollback          {"current": n}
    POST   /v1/stores/{store}/retire            {"version": n} -> {"retired": n}
    POST   /v1/stores/{store}/repush            {"push_id", "partitions", "compression", "swap", "fold"} (all optional) -> report
    GET    /v1/stores/{store}/pushes            {"pushes": [push, ...]}: as `Store.pushes()`
    POST   /v1/stores/{store}/pushes            body: an Arrow IPC stream; ?push_id= &as_of= &swap=true &on_duplicate=fail
                                                &kind=full | incremental | empty (no body) &durability= (incremental) -> report
    POST   /v1/stores/{store}/pushes/{push_id}/kill   {"killed": push id}
    GET    /v1/nodes, /v1/placements, /v1/routing, /v1/tokens, /v1/quotas; their changes: `routes_cluster`, `routes_access`
    GET    /metrics (Prometheus), /healthz, /readyz, /openapi.json

A report is `PushReport` as JSON; moments are ISO 8601 text, names that end in `_us` are whole microseconds since 1970.
"""
