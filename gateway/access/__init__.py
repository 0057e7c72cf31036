"""Who may do what: tenants, their credentials, and what each lets its bearer ask for."""
