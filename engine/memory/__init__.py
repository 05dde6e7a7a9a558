"""What a job needs of the device's memory, and how to make do with what there is.

`meter` counts what a computation holds, without doing it; `skeleton` builds a base without its weights; `estimate` and
`phases` say what a job needs; `plans` are the ways to keep and run a base, from the fastest to the most frugal;
`advice` takes one, and another when memory runs out; `run` follows it.
"""
