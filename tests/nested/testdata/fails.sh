#!/bin/sh
echo "fails: no end of line follows" | tr -d '\n'
exit 3
