"""Why a cache misses, holds much, or answers differently: causes, evidence, fixes, expected gains."""
