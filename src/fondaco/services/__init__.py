"""Data services: sets of long-running processes that feed jobs: specs, identity, leases, and provisioners that run them."""
