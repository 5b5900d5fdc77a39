"""Testing: contract suites, one for each seam. Whoever writes an adapter runs them: subclass, and give the fixture it asks for."""
