"""The HTTP side: takes jobs in, answers what became of them. `server.Ingest` is all that others need."""
