import os, tempfile, sys, time, collections
from pathlib import Path
os.environ["CLIPSEARCH_TREES"]="1"
import tests.faults.test_foreign_files as t
from tests.support.faults import *; from tests.support.commands import *
from hypothesis import given, settings, HealthCheck, Phase
if os.environ.get("FORMAT1"): t.World._is_ours=lambda s,p: True
base=Path(tempfile.mkdtemp())
os.environ.update(CLIPSEARCH_STATE_DIR=str(base/"s"), CLIPSEARCH_CACHE_DIR=str(base/"c"))
said=collections.Counter(); n=0; stat=collections.Counter()
orig=t.World.run
def run(self, step):
    b=time.time(); d=orig(self,step); stat[step.action, step.fault and step.fault.mode, d.status]+=1
    if time.time()-b>5: print("slow", step, time.time()-b)
    return d
t.World.run=run
with Faults(build(base),base) as f, Commands(f.env) as c:
    @settings(max_examples=int(sys.argv[1]),deadline=None,database=None,phases=(Phase.generate,),suppress_health_check=list(HealthCheck))
    @given(story=t.stories)
    def go(story):
        global n; n+=1
        with tempfile.TemporaryDirectory(dir=base) as h:
            try: t.tell(story,Path(h),c,f,True)
            except AssertionError as e:
                s=str(e); said[s[:60 if "made" in s else 400]]+=1
                if said[s[:60 if "made" in s else 400]]<2 : print("----", s[:700])
    b=time.time(); go(); print(n, time.time()-b, sum(said.values()))
    for k,v in sorted(stat.items(), key=str): print(k,v)
