"""Redis and Valkey as a store that many machines share. The only home of redis-py.

`RedisStore` keeps the store protocol; `NearStore` puts a machine's own store in front of it, so that no
request waits for the network longer than it may. Needs the extra `redis`.
"""
